"""docs/store.md is true of the code: the bounds of what is kept in memory."""

from __future__ import annotations

import re
from pathlib import Path

from p2pserver.rooms import state as room_states
from p2pserver.store import auth_index, events, rooms, state_cache, state_groups

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")

BOUNDS = {
    "parsed state events": (events.CACHED_STATE_OCTETS_MAX, events.PDU_OCTETS_MORE),
    "other parsed events": (events.CACHED_MESSAGE_OCTETS_MAX,),
    "state maps": (state_groups.CACHED_ENTRIES_MAX,),
    "differences between full maps": (state_cache.DIFFERENCES_MAX,),
    "digests of states": (state_groups.CACHED_DIGESTS_MAX,),
    "nodes of the auth graph": (auth_index.CACHED_NODES_MAX,),
    "who cites an event as an auth event (the writer)": (auth_index.CACHED_CITING_MAX,),
    "rows of rooms (the writer)": (rooms.ROOMS_KEPT,),
    "resolved combinations": (room_states.RESOLVED_GROUPS_KEPT,),
    "power levels": (room_states.POWER_LEVELS_KEPT,),
    "notes of resolutions": (room_states.NOTED_FACTS_MAX, room_states.NOTED_DECISIONS_MAX),
}


def test_the_bounds_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("| cache | bound |") :]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)[1:])
    rows.pop("---", None)
    assert {
        name: tuple(int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", text))
        for name, text in rows.items()
    } == BOUNDS


def test_a_state_cache_keeps_to_its_bound() -> None:
    cache = state_cache.StateCache(1000)
    for base in range(20):
        whole = {("m.test", f"{number}"): f"${base}" for number in range(100)}
        first = state_cache.LayeredState(base * 1000, whole)
        cache.put(base * 1000, first)
        for number in range(1, 50):
            cache.put(base * 1000 + number, first.with_changes({("m.test", "0"): f"${number}"}))
        assert cache.entries <= 1000
        assert cache.get(base * 1000 + 49) is not None
    assert cache.get(0) is None
    huge = state_cache.LayeredState(10**6, {("m.test", f"{number}"): "$" for number in range(5000)})
    cache.put(10**6, huge)
    assert cache.get(10**6) is huge
