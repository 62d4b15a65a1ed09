import pytest

from coop_rl.observability.profile import TimeSpent, markdown, where_time_went
from coop_rl.tracing.trace import Span

S = 10**9


def seconds(rows: list[TimeSpent], actor: str) -> dict[str, float]:
    return {row.what: row.seconds for row in rows if row.actor == actor}


def test_inner_spans_count_and_an_actors_rows_sum_to_the_profiled_time():
    spans = [Span("RL passes", 2 * S, 5 * S, 1), Span("step", 1 * S, 7 * S, 1)]
    rows = where_time_went({"learner-joint-0": spans}, 0, 10 * S)
    assert seconds(rows, "learner-joint-0") == {"RL passes": 3, "step: the rest": 3, "waits": 4}
    assert sum(row.share for row in rows) == pytest.approx(1.0)


def test_requests_that_overlap_count_once():
    spans = [Span("generate", 1 * S, 4 * S, 1, True), Span("generate", 2 * S, 6 * S, 1, True)]
    rows = where_time_went({"rollout-0": spans}, 0, 10 * S)
    assert seconds(rows, "rollout-0") == {"generate": 5, "waits": 5}


def test_only_what_lies_in_the_profiled_time_counts():
    spans = [Span("generate", -2 * S, 1 * S), Span("publish", 9 * S, 12 * S), Span("no", -2, -1)]
    rows = where_time_went({"rollout-0": spans, "reward": []}, 0, 10 * S)
    assert seconds(rows, "rollout-0") == {"generate": 1, "publish": 1, "waits": 8}
    assert seconds(rows, "reward") == {"waits": 10}
    assert "| rollout-0 | publish | 1.000 | 10.0% |" in markdown(rows)
