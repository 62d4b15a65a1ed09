import json
import threading
import time

import pytest

from coop_rl.tracing import trace
from coop_rl.tracing.trace import Span, busy_ns, chrome_trace, self_ns, span


@pytest.fixture(autouse=True)
def _recording():
    trace.start_recording()
    yield
    trace.stop_recording()
    trace.take_spans()


def test_nested_spans_nest_and_are_taken_once():
    before = time.time_ns()
    with span("step"), span("rl"):
        time.sleep(0.01)
    inner, outer = trace.take_spans()
    assert (inner.name, outer.name) == ("rl", "step")
    assert before - 10**6 <= outer.start_ns <= inner.start_ns
    assert inner.start_ns + 10**7 <= inner.end_ns <= outer.end_ns <= time.time_ns() + 10**6
    assert trace.take_spans() == []


def test_nothing_is_recorded_while_off():
    trace.stop_recording()
    with span("rl"):
        pass
    assert trace.take_spans() == []


def test_a_span_that_raises_is_recorded():
    with pytest.raises(ValueError, match="inside"), span("rl"):
        raise ValueError("inside")
    assert [s.name for s in trace.take_spans()] == ["rl"]


def test_threads_have_lanes_of_their_own():
    with span("main"):
        thread = threading.Thread(target=_record, args=("other",))
        thread.start()
        thread.join()
    spans = trace.take_spans()
    events = [e for e in chrome_trace({"joint-0": spans})["traceEvents"] if e["ph"] == "X"]
    assert {e["tid"] for e in events} == {1, 2}
    # Neither is part of the other, though one lies inside the other in time.
    assert self_ns(spans) == {s.name: s.end_ns - s.start_ns for s in spans}


def test_trace_names_every_actor_and_counts_from_the_first_span():
    tracks = {
        "driver": [Span("step", 5_000, 25_000)],
        "rollout-0": [
            Span("generate", 6_000, 9_000, 7, True),
            Span("generate", 7_000, 11_000, 7, True),
        ],
        "reward": [],
    }
    written = json.loads(json.dumps(chrome_trace(tracks)))["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in written if e["name"] == "process_name"}
    assert names == {1: "driver", 2: "rollout-0", 3: "reward"}
    (step,) = [e for e in written if e["ph"] == "X"]
    assert (step["ts"], step["dur"], step["pid"]) == (0.0, 20.0, 1)
    begun = {e["id"]: e["ts"] for e in written if e["ph"] == "b"}
    ended = {e["id"]: e["ts"] for e in written if e["ph"] == "e"}
    assert sorted((begun[i], ended[i]) for i in begun) == [(1.0, 4.0), (2.0, 6.0)]
    assert begun.keys() == ended.keys()


def test_busy_counts_covered_time_once_and_only_inside():
    spans = [Span("a", 0, 30), Span("b", 10, 20), Span("c", 25, 40), Span("d", 90, 200)]
    assert busy_ns(spans, 5, 100) == 35 + 10
    assert busy_ns([], 0, 10) == 0


def test_own_time_leaves_out_what_nested_spans_took():
    spans = [Span("step", 0, 100), Span("rl", 10, 40), Span("gather", 20, 30), Span("sft", 40, 60)]
    assert self_ns(spans) == {"step": 50, "rl": 20, "gather": 10, "sft": 20}
    assert sum(self_ns(spans).values()) == busy_ns(spans, 0, 100)


def _record(name):
    with span(name):
        time.sleep(0.001)
