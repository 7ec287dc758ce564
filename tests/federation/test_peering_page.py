"""docs/peering.md tells the truth about numbers and limits."""

import re
from pathlib import Path

from p2pserver.federation.limits import PeeringLimits, PeeringTimers
from p2pserver.federation.peering import PeeringState
from p2pserver.mesh.neighbors import TOGETHER_S
from p2pserver.node import mesh
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.wire import messages as m

PAGE = (Path(__file__).parents[2] / "docs" / "peering.md").read_text(encoding="utf-8")


def test_the_table_of_messages_is_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.*?) \|", PAGE, re.MULTILINE)
    assert {name: int(number) for number, name, _ in rows} == {
        kind.__name__: number for kind, number in m._NUMBER_OF.items()
    }
    text = {name: members for _, name, members in rows}
    assert f"{m.BEACONS_MAX:,}" in text["Beacons"]
    assert f"1 to {m.WANT_MAX}" in text["Want"]
    assert str(m.HAVE_MAX) in text["Want"]
    for name in ("Leaves", "Lacking", "Offer", "Stored"):
        assert str(m.EVENT_IDS_MAX) in text[name]
    assert str(m.PDUS_MAX) in text["Pdus"]
    assert f"{m.PART_OCTETS_MAX // 1024} KiB" in text["Item"]
    assert str(m.ITEMS_MAX) in text["ItemsStored"]
    assert f"{m.REQUEST_OCTETS_MAX // 1024} KiB" in text["Request"]
    assert f"{m.PART_OCTETS_MAX // 1024} KiB" in text["Response"]
    assert f"{m.MESSAGE_OCTETS_MAX // 1024} KiB" in PAGE


def test_the_limits_and_times_are_the_code() -> None:
    limits, timers, words = PeeringLimits(), PeeringTimers(), " ".join(PAGE.split())
    assert f"{limits.credits:.0f} at once, {limits.credits_per_s:.0f} more each second" in words
    assert f"{limits.wants_waiting} of its `Want`s wait" in words
    assert f"{limits.serving} of its questions" in words
    assert f"has brought {limits.parked_max:,} events more" in words
    assert f"{limits.window_octets // 1024} KiB and {limits.window_count} rows" in words
    assert f"up to {limits.response_octets >> 20} MiB" in words
    assert f"up to {limits.answer_octets // 1024} KiB" in words
    assert (timers.quiet_s, timers.recheck_s, timers.compare_all_s, timers.settle_s) == (2.0, 0.2, 60.0, 2.0)
    assert timers.offer_s == (0.02, 0.15)
    assert TOGETHER_S == 10.0
    assert (mesh.SESSION_KEPT_S, mesh.PENALTY_S, NodeTimers().blocks_s) == (600.0, 60.0, 2.0)


def test_every_state_and_every_question_is_on_the_page() -> None:
    for state in PeeringState:
        assert state.name in PAGE

    class Named:
        server_name = "x"

    for question in s2s_handlers(Named(), private=False):  # type: ignore[arg-type]
        assert question in PAGE
