"""What a device can do, for the estimates of `coop-rl plan`.

Memory and speeds are vendors' figures (bf16, dense), the links' assumptions; none was measured.
"""

import re
from dataclasses import dataclass

from coop_rl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of accelerator."""

    name: str
    memory_gib: float
    """Size of its memory, as the driver reports it."""
    tflops: float
    """Dense bf16 matrix products, 1e12 operations a second."""
    bandwidth_tbs: float
    """Speed of its memory, 1e12 bytes a second."""
    link_gbs: float
    """Speed between devices of different nodes, 1e9 bytes a second (200 Gbit: 25)."""
    fp32_tflops: float | None = None
    """Products in fp32 without TF32; None: not looked up."""


DEVICES = {
    d.name: d
    for d in (
        Device("L4", 22.5, 121, 0.3, 3, 30.3),
        Device("A10G", 22.5, 70, 0.6, 3),
        Device("L40S", 44.5, 362, 0.86, 6, 91.6),
        Device("A100-40G", 39.5, 312, 1.55, 12, 19.5),
        Device("A100-80G", 79.2, 312, 2.0, 25, 19.5),
        Device("H100", 79.6, 989, 3.35, 25, 67),
        Device("H200", 140.4, 989, 4.8, 25, 67),
        Device("B200", 178.0, 2250, 8.0, 50),
        # Two cores; guesses.
        Device("cpu", 0.0, 0.26, 0.02, 1),
    )
}
"""Devices by the name Ray gives their type, where it knows it."""
VARIANTS = {("H100", "NVL"): (835.0, 60.0), ("H100", "PCIe"): (756.0, 51.0)}
"""Cards that are slower than what their type stands for in DEVICES: bf16 and fp32, 1e12 a second.
Ray does not tell them apart, their full names do."""
ACCELERATOR_LABEL = "ray.io/accelerator-type"


def device_named(name: str) -> Device:
    """Return a kind of device.

    Raises:
        ConfigError: It is not known.
    """
    try:
        return DEVICES[name]
    except KeyError:
        raise ConfigError(
            f"no figures for the device {name}; known are {', '.join(DEVICES)}; choose the nearest "
            "with --device"
        ) from None


def peak_tflops(full_name: str, dtype: str) -> float | None:
    """Return a card's dense matrix products, 1e12 a second; None: not a card that is known.

    Args:
        full_name: As torch gives it, such as NVIDIA A100-SXM4-80GB.
        dtype: bfloat16, or float32 without TF32.
    """
    words = set(re.split(r"[\s-]+", full_name))
    for parts, (bf16, fp32) in VARIANTS.items():
        if words.issuperset(parts):
            return fp32 if dtype == "float32" else bf16
    kinds = (
        kind for name, kind in DEVICES.items() if name != "cpu" and name.split("-")[0] in words
    )
    if (kind := next(kinds, None)) is None:
        return None
    return kind.fp32_tflops if dtype == "float32" else kind.tflops
