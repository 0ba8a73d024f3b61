"""Links: how fast and how surely bytes move between a thing and the coordinator, and what a byte costs the thing.

Rates are of payload. A lost packet is sent again at once, so loss costs time and joules and never a report.
How a task's bodies move is told in docs/wire.md; that the figures here are so is tested with real processes.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

from msgspec import Struct

from fedthings.transport.chunks import CHUNK, WINDOW

_quantile = NormalDist().inv_cdf

INLINE = 4096
"""Bytes: a model body of at most so many comes with its assignment (`server.bodies`)."""
TASK = 600, 281
"""Bytes of MQTT down and up beside the bodies: assignment, offer, receipt, acknowledgements; of these names, +-30.
Of the three that are signed 107 each are the signature's."""
FETCHED = 134, 70
"""Bytes down and up beside each chunk of a model: its envelope; to subscribe, unsubscribe and acknowledge."""
OFFERED = 96
"""Bytes more of an assignment that offers what the model differs in beside all of it."""
REPORTED = 25, 110
"""Bytes down and up beside each chunk of a report of several: what is wanted and acknowledged; its envelope."""


class Link(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A kind of link: `up` and `down` in bit/s, `round_trip` in seconds, `loss` the share of packets sent again.

    `payload` is the bytes of a packet, `joules_per_byte_up` and `_down` are the thing's radio at work, and
    `joules_per_contact` is to wake the radio and link up, twice a task: to fetch it and to report.
    """

    up: float | None = None
    down: float | None = None
    round_trip: float | None = None
    loss: float | None = None
    payload: int | None = None
    joules_per_byte_up: float | None = None
    joules_per_byte_down: float | None = None
    joules_per_contact: float | None = None
    based_on: str = ""


def lorawan() -> Link:
    """Return LoRaWAN in Europe (EU868) at its fastest, spreading factor 7, for a device of class C.

    A packet of 222 bytes (DR5; LoRa Alliance RP002) with 13 of header is 0.369 s on the air (Semtech SX1276
    data sheet, section 4.1.1). A device may send 1 % of the time, a gateway 10 % at 869.525 MHz (ETSI EN
    300 220-2): 222 x 8 / 0.369 x 0.01 = 48 bit/s up, and 481 down, where a gateway sends a model to all at
    once. Round trip: 0.369 s up, RECEIVE_DELAY1 of 1 s (RP002), 0.369 s down. 12 % are lost within 2 km
    (Petajajarvi et al. 2015). 41.5 mA to send at 15 dBm and 12.7 mA to receive at 3.3 V (Microchip SAM R34
    data sheet, 868 MHz), times 0.369 s / 222 bytes.
    """
    return Link(
        up=48.0,
        down=481.0,
        round_trip=1.74,
        loss=0.12,
        payload=222,
        joules_per_byte_up=2.3e-4,
        joules_per_byte_down=7.0e-5,
        joules_per_contact=0.0,
    )


def nb_iot() -> Link:
    """Return NB-IoT (Cat-NB1) in good coverage.

    62.5 kbit/s up, 25.5 down and 1.6 s: the peaks and the best latency of 3GPP Release 13 (Ratasuk et al. 2016).
    10 % of blocks, of at most 125 bytes, are sent again: link adaptation aims there (3GPP TS 36.213). 716 mW
    to send at 23 dBm and 213 mW to receive (Lauridsen et al. 2018), by the rates. 0.55 J to wake and update
    (Nordic, nRF9160 Product Specification, E_PSM_TAU).
    """
    return Link(
        up=62.5e3,
        down=25.5e3,
        round_trip=1.6,
        loss=0.1,
        payload=125,
        joules_per_byte_up=9.2e-5,
        joules_per_byte_down=6.7e-5,
        joules_per_contact=0.55,
    )


def lte_m() -> Link:
    """Return LTE-M (Cat-M1), half duplex.

    180 kbit/s up at 105 mA, 3.7 V and 23 dBm, and 0.105 J to wake and update (Nordic, nRF9160 Product
    Specification, I_RMC and E_PSM_TAU). 300 kbit/s down (3GPP Release 13 peak, half duplex) at 45 mA, the same
    modem at 0 dBm, as a bound on receiving. 0.1 s and blocks of 125 bytes with 10 % sent again: 3GPP TS 36.213
    for the blocks; for the time the upper end of the 50 to 100 ms that the GSMA gives for LTE-M (CLP.29).
    """
    return Link(
        up=180e3,
        down=300e3,
        round_trip=0.1,
        loss=0.1,
        payload=125,
        joules_per_byte_up=1.7e-5,
        joules_per_byte_down=4.4e-6,
        joules_per_contact=0.105,
    )


def wifi() -> Link:
    """Return Wi-Fi at 2.4 GHz (802.11n) as a small thing has it.

    20 Mbit/s of TCP over the air both ways (Espressif, ESP-IDF Wi-Fi driver guide); the losses are in the rate,
    since the radio repeats by itself. 200 mA to send and 68 mA to receive at 3.3 V (Espressif, ESP32-S2-WROOM
    data sheet, table 7), by the rate. 25 ms: 3 ms for the hop (Pei et al. 2016, median) and about 20 ms of
    Internet behind it, an estimate.
    """
    return Link(
        up=20e6,
        down=20e6,
        round_trip=0.025,
        loss=0.0,
        payload=1460,
        joules_per_byte_up=2.6e-7,
        joules_per_byte_down=9.0e-8,
        joules_per_contact=0.0,
    )


def ethernet() -> Link:
    """Return Ethernet at 100 Mbit/s (100BASE-TX).

    94.9 Mbit/s: 1460 of the 1538 bytes that a frame takes on the wire are payload (IEEE 802.3). 0.012 % lost:
    frames of 12,144 bits at the bit error rate of 1e-8 that IEEE 802.3 (21.1) allows. 270 mW (TI DP83848C data
    sheet), by the rate. 20 ms of Internet behind it, an estimate.
    """
    return Link(
        up=94.9e6,
        down=94.9e6,
        round_trip=0.02,
        loss=1.2e-4,
        payload=1460,
        joules_per_byte_up=2.3e-8,
        joules_per_byte_down=2.3e-8,
        joules_per_contact=0.0,
    )


LINKS = {make.__name__: make() for make in (lorawan, nb_iot, lte_m, wifi, ethernet)}


def chunks(model: int, report: int) -> tuple[int, int]:
    """Return how many chunks of each body are asked for: of a small model, and of a report of one chunk, none."""
    return (ceil(model / CHUNK) if model > INLINE else 0), (ceil(report / CHUNK) if report > CHUNK else 0)


def exchanged(model: int, report: int) -> tuple[float, float]:
    """Return the bytes that go down and up over the link for a task with bodies of `model` and `report` bytes."""
    fetched, reported = chunks(model, report)
    down = model + TASK[0] + FETCHED[0] * fetched + REPORTED[0] * reported
    up = report + TASK[1] + FETCHED[1] * fetched + REPORTED[1] * reported
    return down, up


def moving(size: float, count: int, rate: float, round_trip: float) -> float:
    """Return the seconds in which `size` bytes cross at `rate` bit/s, of a body of which `count` chunks are asked for.

    What needs no asking is there after half a round trip. Chunks are asked for when they have been offered, a window
    at first and then half a window whenever half has come: where that takes less than a round trip, the link idles.
    """
    if not count:
        return round_trip / 2 + 8 * size / rate
    half = WINDOW // 2
    idles = (ceil(count / half) - 1) // 2
    return 1.5 * round_trip + 8 * size / rate + idles * max(0.0, round_trip - 8 * half * CHUNK / rate)


def carried(size: float, payload: int, loss: float, draw: float) -> float:
    """Return the bytes that go over the link to bring `size` across, `draw` in (0, 1) deciding what is lost."""
    packets = ceil(size / payload)
    return size + lost(packets, loss, draw) * (size / packets) if packets else size


def lost(packets: int, loss: float, draw: float) -> int:
    """Return the quantile `draw` of how many are lost until `packets` are across: negative binomial.

    Where more than 10 are expected, by the normal distribution of the same mean and variance.
    """
    mean = packets * loss / (1 - loss)
    if mean > 10:
        return max(0, round(mean + sqrt(mean / (1 - loss)) * _quantile(draw)))
    chance = total = (1 - loss) ** packets
    count = 0
    while draw > total and count < 1000:
        chance *= (packets + count) / (count + 1) * loss
        total += chance
        count += 1
    return count
