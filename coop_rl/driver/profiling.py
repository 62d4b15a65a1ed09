"""Records the profiled steps on every actor and writes them into the run directory.

    profile/trace.json   one track per actor; open it with ui.perfetto.dev or chrome://tracing
    profile/seconds.md   where each actor's seconds went

Recording begins before the first profiled step and ends when the last one has been recorded.
"""

import json
from collections.abc import Mapping

from coop_rl.algorithm.roles import Observer, StepRecord
from coop_rl.config import RunConfig
from coop_rl.distributed.actors import Shell
from coop_rl.distributed.calls import gather
from coop_rl.distributed.team import Team
from coop_rl.files import write_text
from coop_rl.observability.console import RunConsole
from coop_rl.observability.profile import markdown, where_time_went
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.tracing import trace

DRIVER = "driver"


class ProfilingObserver:
    """An observer that records steps `observability.profile_steps` on the way."""

    def __init__(
        self,
        config: RunConfig,
        observer: Observer,
        team: Team,
        directory: RunDirectory,
        console: RunConsole,
    ) -> None:
        """Hand everything on to `observer`."""
        self._steps = config.observability.profile_steps
        self._timeout_s = config.placement.call_timeout_s
        self._observer = observer
        self._team = team
        self._directory = directory
        self._console = console
        self._began_ns: int | None = None

    def record(self, record: StepRecord) -> None:
        """Write the step's row; after the last profiled one, the profile."""
        self._observer.record(record)
        if self._steps and self._began_ns is not None and record.step == self._steps[1]:
            self._finish(self._began_ns, record.step)

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write what was measured before `step`; start recording if that is the first one."""
        self._observer.record_evaluation(step, metrics)
        if self._steps and step == self._steps[0]:
            calls = [m.call(Shell.start_recording) for m in self._team.all]
            gather(calls, self._timeout_s)
            trace.start_recording()
            self._began_ns = trace.now_ns()

    def _finish(self, began_ns: int, last: int) -> None:
        ended_ns, self._began_ns = trace.now_ns(), None
        trace.stop_recording()
        members = self._team.all
        taken = gather([m.call(Shell.take_spans) for m in members], self._timeout_s)
        tracks = {DRIVER: trace.take_spans()}
        tracks |= {m.name: spans for m, spans in zip(members, taken, strict=True)}
        folder = self._directory.profile
        folder.mkdir(exist_ok=True)
        write_text(folder / "trace.json", json.dumps(trace.chrome_trace(tracks)))
        rows = where_time_went(tracks, began_ns, ended_ns)
        write_text(folder / "seconds.md", markdown(rows))
        assert self._steps is not None
        self._console.profile(rows, f"steps {self._steps[0]} to {last}", folder)
