"""`coop-rl plan` as a user sees it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.commands.plan import plan_run
from coop_rl.config import load_config
from coop_rl.planning.cost import evaluated_samples, num_evaluations, run_s, step_cost
from coop_rl.planning.devices import device_named
from coop_rl.planning.shape import shape_of
from tests.support.in_process import ROOT, Ended, coop_rl

GOLDEN = ROOT / "tests/planning/golden"


def golden(config: str) -> Path:
    """Return where the plan of a config is kept."""
    return GOLDEN / config.removeprefix("configs/").replace("/", "-").replace(".yaml", ".txt")


def plan(*arguments: str) -> Ended:
    # As wide as a pipe, whatever terminal the tests run in.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return coop_rl("plan", *arguments)


CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").glob("[clp]*/*.yaml"))
RIVALS = (
    "rl", "sft", "cold_start", "sum", "alternate", "chord", "hpt", "luffy", "srft", "relift",
    "lspo",
)  # fmt: skip


def options_of(config: str) -> list[str]:
    """Return the options that name its devices; of a CPU the memory, which differs by machine."""
    if "/local/smollm2" in config:  # its folder is not in a clone
        return ["--device-gib", "24", "--set=model.path=HuggingFaceTB/SmolLM2-135M-Instruct"]
    if "/local/" in config:
        return ["--device-gib", "24"]
    return ["--device", "L4" if "/1-gpu" in config else "H100"]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shipped_configs_plan_fits_and_is_as_printed_before(config: str) -> None:
    """After a wanted change: `python -m tests.planning.renew`."""
    done = plan(config, *options_of(config))
    assert done.returncode == 0, done.stderr
    assert done.stdout == golden(config).read_text()


@pytest.mark.parametrize("config", [c for c in CONFIGS if "/paper/" in c])
@pytest.mark.parametrize("kind", RIVALS)
def test_every_rival_fits_where_the_papers_method_does(config: str, kind: str) -> None:
    chosen = load_config(ROOT / config, [f"method.kind={kind}"])
    plan_run(chosen, Console(file=io.StringIO()), device="H100")


LARGE = (
    "configs/local/demo.yaml",
    "--set=model.path=Qwen/Qwen3-8B-Base",
    "--set=model.dtype=bfloat16",
    "--set=rollout.dtype=bfloat16",
    "--set=learner.zero_stage=3",
    "--set=learner.activation_checkpointing=true",
    "--set=learner.micro_batch_tokens=8192",
    "--set=placement.learner.gpus=1",
    "--set=placement.shadow.gpus=1",
    "--set=placement.rollout.gpus=1",
)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    done = plan(*LARGE)
    assert done.returncode == 2
    assert "learner rank: " in done.stderr
    assert "DOES NOT FIT" in done.stderr
    assert "the smallest cluster that fits" in done.stderr


def test_the_smallest_cluster_fits() -> None:
    words = plan(*LARGE).stderr.split()
    ranks = words[words.index("(learner.num_ranks") + 1].rstrip(",")
    assert plan(*LARGE, f"--set=learner.num_ranks={ranks}").returncode == 0


def test_an_unknown_device_is_refused() -> None:
    done = plan("configs/local/demo.yaml", "--device", "H1000")
    assert done.returncode == 2
    assert "known are L4" in done.stderr


@pytest.mark.parametrize("sets", [["meta.guidance=[scaffold]"], ["method.kind=lspo"]])
def test_a_scaffold_is_planned_with_a_second_sync_and_second_tries(sets: list[str]) -> None:
    shape, device = shape_of(str(ROOT / "configs/local/demo/model")), device_named("H100")
    demo = ROOT / "configs/local/demo.yaml"
    with_it = step_cost(load_config(demo, sets), shape, device)
    without = step_cost(load_config(demo, ["method.kind=hpt"]), shape, device)
    assert with_it.sync_bytes == 2 * without.sync_bytes
    assert with_it.generated_tokens == 1.5 * without.generated_tokens
    assert with_it.generate_s > without.generate_s
    assert with_it.trained_tokens > without.trained_tokens


def test_evaluations_are_planned_and_where_they_wait() -> None:
    shape, device = shape_of(str(ROOT / "configs/local/demo/model")), device_named("H100")

    def planned(*sets: str) -> tuple[int, int, int]:
        config = load_config(ROOT / "configs/local/demo.yaml", ["run.num_steps=100", *sets])
        cost = step_cost(config, shape, device)
        waited = run_s(config, cost) - 100 * cost.step_s(config.rollout.max_policy_lag)
        waits = waited / cost.evaluate_s
        assert waits == pytest.approx(round(waits))
        return evaluated_samples(config), num_evaluations(config), round(waits)

    assert planned() == (256 * 5, 2, 2)
    assert planned("evaluation.every=30") == (256 * 5, 5, 5)
    beside = ("evaluation.every=25", "evaluation.num_rollout_actors=1")
    assert planned(*beside) == (256 * 5, 5, 1)
    cut = ("evaluation.benchmarks=[gsm8k,aime24]", "evaluation.benchmark_items=100")
    assert planned(*cut) == ((256 + 100 + 30) * 5, 2, 2)
    assert planned("evaluation.benchmarks=[gsm8k]")[0] == (256 + 1319) * 5
    assert planned("evaluation.more_data.harder.path=harder.jsonl")[0] == 2 * 256 * 5


def test_steps_of_a_cold_start_cost_their_training_alone() -> None:
    shape, device = shape_of(str(ROOT / "configs/local/demo/model")), device_named("H100")
    demo, mixture = ROOT / "configs/local/demo.yaml", "meta.w_objective=mixture"
    still = ("evaluation.num_rollout_actors=1", "run.num_steps=40", mixture)
    whole, cold = (
        load_config(demo, [*still, f"method.cold_start_steps={first}"]) for first in (0, 30)
    )
    sft = load_config(demo, ["method.kind=sft"])
    cost = step_cost(whole, shape, device)
    assert step_cost(cold, shape, device) == cost
    assert cost.sft_s == pytest.approx(step_cost(sft, shape, device).train_s)
    saved = run_s(whole, cost) - run_s(cold, cost)
    assert saved == pytest.approx(30 * (cost.step_s(0) - cost.sft_s))
    shown = plan(str(demo), "--set", mixture, "--set", "method.cold_start_steps=30")
    assert "seconds of each of the first 30 steps" in shown.stdout


def test_the_longest_response_is_waited_for_at_lag_0_alone() -> None:
    shape, device = shape_of(str(ROOT / "configs/local/demo/model")), device_named("H100")
    demo = ROOT / "configs/local/demo.yaml"
    config = load_config(demo, ["rollout.max_policy_lag=0"])
    at_once, behind = (
        step_cost(load_config(demo, [f"rollout.max_policy_lag={lag}"]), shape, device)
        for lag in (0, 1)
    )
    # Half of the longest response, each token for one reading of all weights at half the speed.
    weights = 4 * shape.num_params
    tail_s = config.rollout.max_tokens / 2 * weights / (device.bandwidth_tbs * 1e12 / 2)
    assert at_once.generate_s - behind.generate_s == pytest.approx(tail_s, rel=0.01)
