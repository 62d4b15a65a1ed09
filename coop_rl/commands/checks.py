"""All that must hold before a run starts, as ONE list, which every command goes through.

    train          stops at the first fault
    check, doctor  tell all faults at once; doctor then looks at the machine as well
    plan           leaves out what depends on the machine it is called on

A check looks at one thing and keeps what it read, so that `train` reads nothing twice. Nothing here
starts Ray, writes a file, or imports torch where the model is of a usual type.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop_rl.commands.allowed import Allowed
from coop_rl.commands.resume import Start, fetch_start, find_start, saved_roles
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.data import RowSource
from coop_rl.config.paths import PACKAGES
from coop_rl.config.sizes import has_adapter, reads_demonstrations
from coop_rl.data.chat_template import end_of_turn
from coop_rl.data.fingerprints import fingerprints
from coop_rl.data.load import RunData, RunReader
from coop_rl.data.model_folder import ModelFacts, complete_values, facts_of, read_model_values
from coop_rl.data.model_limits import refuse_other_targets, refuse_untrainable
from coop_rl.data.rendering import load_tokenizer
from coop_rl.diagnosis.finding import Finding
from coop_rl.distributed.cluster import named_environment, preflight_local
from coop_rl.driver.checkpoint_check import Inputs
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.driver.checkpoint_target import CheckpointTarget, TargetError
from coop_rl.errors import RunDirectoryError, UserError
from coop_rl.evaluation.benchmarks import find_benchmark
from coop_rl.evaluation.sets import EvaluationSet, benchmark_sets
from coop_rl.observability.run_directory import RunDirectory, flatten
from coop_rl.observability.trackers import check_trackers
from coop_rl.rewards.user import check_functions
from coop_rl.types import Demonstration

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_CHARACTERS, SHOWN_TOKENS = 40, 16
"""Of a rendered row: enough to see how a prompt ends and how a response begins and ends."""


@dataclass(slots=True)
class Door:
    """What a run's checks look at, and what they have read so far."""

    config: RunConfig
    run_dir: Path | None = None
    resume: str = "auto"
    allowed: Sequence[Allowed] = ()
    """What a resume may find changed."""
    is_restart: bool = False
    """Whether this command had begun the run before, and lost somebody."""
    values: dict[str, Any] = field(default_factory=dict)
    """The model's config.json; where it is given, the model itself is not looked at."""
    warnings: list[str] = field(default_factory=list)
    """What does not keep the run from starting."""
    facts: ModelFacts = field(init=False)
    tokenizer: "PreTrainedTokenizerBase" = field(init=False)
    reader: RunReader = field(init=False)
    data: RunData = field(init=False)
    sets: list[EvaluationSet] = field(default_factory=list)
    store: CheckpointStore = field(init=False)
    inputs: Inputs = field(init=False)
    start: Start = field(init=False)
    target: CheckpointTarget | None = None
    """Where checkpoints are copied to."""
    elsewhere: Sequence[str] = ()
    """The checkpoints that are there."""

    def require_all(self) -> None:
        """Go through all checks.

        Raises:
            UserError: The first fault.
        """
        for check in CHECKS:
            check.look(self)

    def findings(self, checks: Sequence["Check"]) -> Iterator[Finding]:
        """Go through checks and yield what each found; one that needs a failed one is left out."""
        passed: set[str] = set()
        for check in checks:
            if missing := [name for name in check.needs if name not in passed]:
                yield Finding(check.name, "warn", f"not looked at without {', '.join(missing)}")
                continue
            before = len(self.warnings)
            try:
                found = check.look(self)
            except UserError as error:
                yield Finding(check.name, "fail", *_split(str(error)))
                continue
            passed.add(check.name)
            if len(self.warnings) > before:
                yield Finding(check.name, "warn", *_split(self.warnings[-1]))
            else:
                yield Finding(check.name, "ok", found)

    def devices(self) -> str:
        """Compare what the roles reserve with this machine; of a cluster, only it knows."""
        if self.config.placement.address is not None:
            named_environment(self.config.placement.environment)
            return "the cluster's are compared when the run has joined it"
        sizes = derive_sizes(self.config)
        preflight_local(sizes)
        return f"{sizes.total_cpus:g} CPUs and {sizes.total_gpus:g} GPUs are asked for"

    def functions(self) -> str:
        """Load the user's reward functions."""
        check_functions(self.config.reward)
        return ", ".join(self.config.reward.functions) or "none of your own"

    def trackers(self) -> str:
        """Look whether the trackers' packages are there."""
        check_trackers(self.config)
        return ", ".join(self.config.observability.trackers) or "none beside TensorBoard"

    def benchmarks(self) -> str:
        """Look the benchmarks' names up."""
        names = self.config.evaluation.benchmarks
        for name in names:
            find_benchmark(name)
        return ", ".join(names) or "none"

    def model(self) -> str:
        """Look at the model's folder, its sizes, and whether learners compute it as it is."""
        section = self.config.model
        if not self.values:
            self.values = complete_values(section.path, read_model_values(section.path))
        self.facts = facts_of(section, self.values)
        refuse_untrainable(self.config, self.values)
        return f"{self.values.get('model_type')}, context {self.facts.max_length:,} tokens"

    def adapter(self) -> str:
        """Compare the adapter's targets with the model's layers."""
        config = self.config
        if not has_adapter(config):
            return "none"
        if not refuse_other_targets(config, self.values.get("model_type")):
            from coop_rl.models import adapter_shapes, load_skeleton  # heavy: torch

            adapter_shapes(load_skeleton(config.model.path), config.adapter.targets)
        return f"rank {config.adapter.rank} on {', '.join(config.adapter.targets)}"

    def load_tokenizer(self) -> str:
        """Load the tokenizer, and compare its end token with the chat template's."""
        self.tokenizer = load_tokenizer(self.config.model.path)
        self.reader = RunReader(self.config, self.tokenizer, self.facts)
        end = self.tokenizer.eos_token
        if any(source.template is None for source in _used(self.config)):
            turn = end_of_turn(self.tokenizer) if self.tokenizer.chat_template else None
            if turn is not None and turn != end:
                self.warnings.append(
                    f"the chat template ends an answer with {turn}, demonstrations and samples end "
                    f"with the tokenizer's {end}; set eos_token {turn} in tokenizer_config.json "
                    "where the model was trained on that template"
                )
        return f"{len(self.tokenizer):,} tokens, responses end with {end}"

    def prompts(self) -> str:
        """Read and render the prompts."""
        prompts = self.reader.prompts()
        if not len(prompts):
            return "none are needed"
        return f"{len(prompts):,} rows; the first ends in {prompts[0].text[-SHOWN_CHARACTERS:]!r}"

    def demonstrations(self) -> str:
        """Read and render the demonstrations."""
        shown = self.reader.demonstrations()
        return self._shown(len(shown), shown[0]) if len(shown) else "none are needed"

    def _shown(self, count: int, first: Demonstration) -> str:
        before, begin, end = (
            self.tokenizer.decode(list(ids))
            for ids in (
                first.prompt_ids[-SHOWN_TOKENS:],
                first.response_ids[:SHOWN_TOKENS],
                first.response_ids[-SHOWN_TOKENS:],
            )
        )
        return f"{count:,} rows; to {before!r} the first answers {begin!r} ... {end!r}"

    def evaluation(self) -> str:
        """Read and render the sets to evaluate on."""
        names = [held_out.name for held_out in self.config.evaluation.held_out]
        self.sets = list(map(EvaluationSet, names, self.reader.held_out()))
        self.sets += benchmark_sets(self.config, self.tokenizer, self.facts)
        return ", ".join(f"{one.name} {len(one.prompts):,} rows" for one in self.sets)

    def together(self) -> str:
        """Compare prompts and demonstrations with each other and with the run's length."""
        self.data = self.reader.together()
        return "prompts and demonstrations fit the method"

    def run_directory(self) -> str:
        """Look whether the run directory can be used, and where the run goes on."""
        config = self.config
        _require_kept(self.run_dir or Path(config.run.dir))
        directory = RunDirectory.look(config, self.run_dir)
        roles, keep = saved_roles(config), config.checkpoint.keep
        self.store = CheckpointStore(directory.checkpoints, keep, roles)
        self.inputs = Inputs(flatten(config.model_dump(mode="json")), fingerprints(config))
        self.start = self._find_start()
        begins = f"goes on from {self.target}" if self.start.is_elsewhere else "begins anew"
        return f"{directory.path}, {self.start.checkpoint or begins}"

    def _find_start(self) -> Start:
        return find_start(
            self.config,
            self.store,
            self.resume,
            self.inputs,
            self.allowed,
            is_restart=self.is_restart,
            elsewhere=self.elsewhere,
        )

    def checkpoint_target(self) -> str:
        """Look whether the place that checkpoints are copied to can be read."""
        config = self.config
        if config.checkpoint.target is None:
            return "none"
        self.target = CheckpointTarget.open(config.checkpoint.target, config.run.name)
        try:
            self.elsewhere = self.target.names()
        except TargetError as error:
            raise RunDirectoryError(
                f"checkpoint.target {self.target} cannot be read: {error}; give its client keys "
                "that may list, read and write there, or set it to null"
            ) from None
        return f"{self.target}, {len(self.elsewhere)} checkpoints"

    def fetch(self, checkpoints: Path, say: Callable[[str], None]) -> None:
        """Start from the target's newest whole checkpoint where there is none here."""
        if not self.start.is_elsewhere:
            return
        assert self.target is not None
        say(f"fetching a checkpoint from {self.target}")
        notes = [
            *self.start.notes,
            *fetch_start(self.target, self.config, checkpoints, self.allowed),
        ]
        self.elsewhere = ()
        found = self._find_start()
        self.start = replace(found, notes=[*notes, *found.notes])


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    look: Callable[[Door], str]
    """Returns what was found in a few words, or raises UserError."""
    needs: tuple[str, ...] = ()
    """Checks without which it cannot look."""
    is_local: bool = False
    """Whether the answer depends on the machine that asks."""


CHECKS = (
    Check("devices", Door.devices, is_local=True),
    Check("reward functions", Door.functions),
    Check("trackers", Door.trackers),
    Check("benchmarks", Door.benchmarks),
    Check("model", Door.model),
    Check("adapter", Door.adapter, ("model",)),
    Check("tokenizer", Door.load_tokenizer, ("model",)),
    Check("prompts", Door.prompts, ("tokenizer",)),
    Check("demonstrations", Door.demonstrations, ("tokenizer",)),
    Check("evaluation", Door.evaluation, ("tokenizer", "benchmarks")),
    Check("data together", Door.together, ("prompts", "demonstrations")),
    Check("checkpoint target", Door.checkpoint_target, is_local=True),
    Check(
        "run directory",
        Door.run_directory,
        ("data together", "evaluation", "checkpoint target"),
        is_local=True,
    ),
)
"""In the order in which `train` refuses."""
WITHOUT_DATA = tuple(
    check
    for check in CHECKS
    if check.name in ("reward functions", "benchmarks", "model", "adapter")
)
"""What can be asked where neither model nor data need be here."""
WITH_DATA = tuple(check for check in CHECKS if not check.is_local)


def _split(text: str) -> tuple[str, str]:
    """Return what was found, and what to change."""
    found, _, fix = text.partition("; ")
    return found, fix


def _used(config: RunConfig) -> list[RowSource]:
    """Return the sources of rows that a run reads."""
    sources: list[RowSource] = [held_out.source for held_out in config.evaluation.held_out]
    if config.method.samples:
        sources += config.prompts.mixture or [config.prompts]
    if reads_demonstrations(config):
        sources += config.demonstrations.mixture or [config.demonstrations]
    return sources


def _require_kept(folder: Path) -> None:
    """Refuse a run directory inside a job's package, which Ray deletes."""
    if PACKAGES in folder.resolve().parts:
        raise RunDirectoryError(
            f"the run directory {folder} lies in the job's package, which Ray deletes; set an "
            "absolute run.dir or --run-dir on storage that all nodes share"
        )
