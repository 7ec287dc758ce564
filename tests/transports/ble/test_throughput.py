"""What the link leaves of a raw GATT stream, on the virtual air paced at the 1M PHY: `benchmarks.ble`, shorter."""

from __future__ import annotations

from benchmarks.ble import BOTH_WAYS_BAR, ONE_WAY_BAR, Ends, converse, stream, timed
from transports.sim import run_virtual

OCTETS = 160_000
RAW_OCTETS = OCTETS // 8
MTU = 247


async def shares() -> tuple[float, float]:
    """Of the raw stream: one way from the peripheral, and both ways at once."""
    seconds = []
    for run in (
        lambda ends: stream(ends.links[1], ends.links[0], RAW_OCTETS, raw=True),
        lambda ends: converse(ends.links, (0, OCTETS), 1),
        lambda ends: converse(ends.links, (OCTETS // 2, OCTETS // 2), 1),
    ):
        ends = await Ends.meet(mtu=MTU, paced=True)
        seconds.append(await timed(run(ends)))
        await ends.part()
    raw, one_way, both_ways = seconds
    raw *= OCTETS / RAW_OCTETS
    return raw / one_way, raw / both_ways


def test_the_link_leaves_what_is_asked_for_of_a_raw_stream() -> None:
    one_way, both_ways = run_virtual(shares(), limit_s=600)
    assert one_way >= ONE_WAY_BAR
    assert both_ways >= BOTH_WAYS_BAR
