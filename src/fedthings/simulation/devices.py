"""Device profiles: how fast a thing computes, how much memory it has, and what an operation costs it.

A figure is what training sustains, not a peak. Boards are taken at what dense linear algebra (HPL) reaches on
them, with the power of the whole board. HPL computes in double precision; small layers in single precision do
not reach more. Profiles are data: `based_on` takes from another profile what is not given.
"""

from __future__ import annotations

from msgspec import Struct


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A kind of thing: `flops` a second that training sustains, `memory` in bytes, `joules_per_flop`."""

    flops: float | None = None
    memory: float | None = None
    joules_per_flop: float | None = None
    based_on: str = ""


def microcontroller() -> Device:
    """Return a Cortex-M4F at 64 MHz, the nRF52840 of the Arduino Nano 33 BLE (Llisterri Gimenez et al. 2022).

    21 Mflop/s: a multiply-add with its two loads takes 6 cycles (Arm DDI 0439: VLDR 2 and 1 cycles, VFMA 3).
    256 KB and 52 uA/MHz at 3 V from flash: Nordic, nRF52840 Product Specification. 10 mW / 21 Mflop/s.
    """
    return Device(flops=21e6, memory=256 * 1024, joules_per_flop=4.7e-10)


def pi_zero() -> Device:
    """Return a Raspberry Pi Zero, one ARM1176 at 1 GHz.

    0.319 Gflop/s and 0.236 Gflop/s/W in HPL: Cloutier, Paradis & Weaver 2016 (Electronics 5(4), 61). 512 MB.
    """
    return Device(flops=0.319e9, memory=512e6, joules_per_flop=4.2e-9)


def pi4() -> Device:
    """Return a Raspberry Pi 4 with 4 GB, four Cortex-A72.

    11.9 Gflop/s at 7.2 W in HPL: Geerling, top500-benchmark, issue 13.
    """
    return Device(flops=11.9e9, memory=4e9, joules_per_flop=6.1e-10)


def jetson() -> Device:
    """Return an NVIDIA Jetson Nano with 4 GB at 10 W.

    236 Gflop/s at the most: 128 cores, 2 operations a cycle, 0.92 GHz (NVIDIA, Jetson Nano data sheet). Taken
    at one half, an estimate: HPL on the Pi 4 reaches 0.4 to 0.5 of that board's peak. 10 W / 118 Gflop/s.
    """
    return Device(flops=118e9, memory=4e9, joules_per_flop=8.5e-11)


def phone() -> Device:
    """Return a good phone of 2019, four Cortex-A76 and four A55, of which an app may use 2 GB.

    An estimate: the same cores in the RK3588S2 give 48.6 Gflop/s at 10 W in HPL (Geerling, top500-benchmark,
    issue 31), and a phone's case carries off about 4 W (Halpern et al. 2016). 4.86 Gflop/s/W x 4 W.
    """
    return Device(flops=19e9, memory=2e9, joules_per_flop=2.1e-10)


def gateway() -> Device:
    """Return a line-powered gateway with an Intel N100 and 8 GB.

    62.9 Gflop/s at 25 W in HPL: Geerling, top500-benchmark, issue 30.
    """
    return Device(flops=62.9e9, memory=8e9, joules_per_flop=4.0e-10)


DEVICES = {make.__name__: make() for make in (microcontroller, pi_zero, pi4, jetson, phone, gateway)}
