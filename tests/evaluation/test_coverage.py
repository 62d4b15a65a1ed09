"""Intervals hold the truth as often as they say; `bench/coverage.py` has the whole grid."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "bench/coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_bench", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("num_problems", [30, 40, 100, 500, 1319])
def test_greedy_share_exactly(coverage: ModuleType, num_problems: int) -> None:
    shares = [coverage.wilson_coverage(num_problems, i / 50) for i in range(1, 50)]
    assert 0.94 <= np.mean(shares) <= 0.96
    assert min(shares) >= 0.925
    everywhere = [coverage.wilson_coverage(num_problems, i / 1000) for i in range(1, 1000)]
    assert 0.94 <= np.mean(everywhere) <= 0.96
    assert min(everywhere) >= 0.92


@pytest.mark.parametrize("num_problems", [30, 100])
@pytest.mark.parametrize("num_samples", [1, 4])
def test_mean_over_problems(coverage: ModuleType, num_problems: int, num_samples: int) -> None:
    rng = np.random.default_rng(num_problems + num_samples)
    found = list(coverage.mean_coverage(num_problems, num_samples, 4000, rng))
    shares = [c.share for c in found]
    assert 0.94 <= np.mean(shares) <= 0.96
    # 4000 draws at 93 % scatter by 0.4 points.
    assert min(shares) >= 0.92


def test_paired_difference(coverage: ModuleType) -> None:
    rng = np.random.default_rng(0)
    shares = [c.share for c in coverage.difference_coverage(100, 4, 1000, rng)]
    assert 0.94 <= np.mean(shares) <= 0.96
    assert min(shares) >= 0.915


def test_the_percentile_bootstrap_would_not_do(coverage: ModuleType) -> None:
    rng = np.random.default_rng(0)
    assert min(c.share for c in coverage.bootstrap_coverage(30, 4, 20, rng)) < 0.85
