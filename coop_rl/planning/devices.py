"""What a device can do, for the estimates of `coop-rl plan`.

Memory and speeds are vendors' figures (bf16, dense), the links' assumptions; none was measured.
"""

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


DEVICES = {
    d.name: d
    for d in (
        Device("L4", 22.5, 121, 0.3, 3),
        Device("A10G", 22.5, 70, 0.6, 3),
        Device("L40S", 44.5, 362, 0.86, 6),
        Device("A100-40G", 39.5, 312, 1.55, 12),
        Device("A100-80G", 79.2, 312, 2.0, 25),
        Device("H100", 79.6, 989, 3.35, 25),
        Device("H200", 140.4, 989, 4.8, 25),
        Device("B200", 178.0, 2250, 8.0, 50),
        # Two cores; guesses.
        Device("cpu", 0.0, 0.26, 0.02, 1),
    )
}
"""Devices by the name Ray gives their type, where it knows it."""
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
