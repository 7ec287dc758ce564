"""What people read of `p2pserver room …`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from p2pserver.graph_view.text import shortened
from p2pserver.rooms.verification import Verified

SERVERS_SHOWN = 12
MISSING_SHOWN = 5
ALARMS = {
    "diverged": "this node and a peer hold the same events, and make different things of them",
    "set_back": "others know more of this node than its own data: an old state of it was put back",
    "key_used_twice": "two nodes run with this key: stop one of them, for ever",
    "state_reset_suspected": "the state went back to something older, though nobody revoked anything",
}
"""What each kind of `store.alarms` means, for people."""


def lines_of_room(room: Mapping[str, Any]) -> Iterator[str]:
    """What `store.room_report` says, alarms first."""
    yield shortened(room["name"] or "(no name)", 200)
    yield f"  {room['room_id']}"
    yield f"  version {room['version']}, by {room['creator']}, {room['history']}"
    if room["aliases"]:
        yield f"  aliases {', '.join(room['aliases'])}"
    for alarm in room["alarms"]:
        yield from _lines_of_alarm(alarm)
    verdicts = [f"{count:,} {verdict.replace('_', '-')}" for verdict, count in room["verdicts"].items()]
    yield f"graph     {_count(room['events'], 'event')} ({', '.join(verdicts)}), depth {room['depth']:,}"
    width = _count(room["width"], "forward extremity", "forward extremities")
    leaves = _count(room["leaves"], "leaf", "leaves")
    yield f"          {width}, {leaves}, {room['redacted']:,} redacted, {_count(room['outliers'], 'outlier')}"
    yield f"members   {room['joined']:,} on {_count(sum(each['joined'] > 0 for each in room['servers']), 'server')}"
    for each in room["servers"][:SERVERS_SHOWN]:
        invited = f", {each['invited']:,} invited" if each["invited"] else ""
        yield f"          {each['server']}: {each['joined']:,}{invited}"
    if len(room["servers"]) > SERVERS_SHOWN:
        yield f"          and {len(room['servers']) - SERVERS_SHOWN:,} more servers"
    for gap in room["missing"][:MISSING_SHOWN]:
        claim = f"its state claimed by {gap['claimed_by']}" if gap["claimed_by"] else "nothing claimed"
        yield f"missing   {gap['event_id']}, {'from before the join, ' if gap['before_join'] else ''}{claim}"
    if len(room["missing"]) > MISSING_SHOWN:
        yield f"          and {len(room['missing']) - MISSING_SHOWN:,} more events"
    for each in room["parked"]:
        yield f"parked    {each['events']:,} events from {each['from']} wait for their parents"


def lines_of_alarms(alarms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each row of `store.alarms` with the room that it is about."""
    for alarm in alarms:
        yield alarm["room_id"] or "the node"
        yield from _lines_of_alarm(alarm)


def _lines_of_alarm(alarm: Mapping[str, Any]) -> Iterator[str]:
    when = f"{datetime.fromtimestamp(alarm['last_ms'] / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    often = "" if alarm["times"] == 1 else f", {alarm['times']:,} times"
    yield f"ALARM     {alarm['kind']}: {alarm['about']}, {when}{often}"
    meaning = ALARMS.get(alarm["kind"])
    if meaning is not None:
        yield f"          {meaning}"
    for name, value in alarm["details"].items():
        yield f"          {name} {value}"


def lines_of_verification(found: Verified, seconds: float) -> Iterator[str]:
    """One line if all is well, one for each claim that nobody can check; else the first difference."""
    if found.difference is not None:
        first = found.difference
        at = "" if first.event_id is None else f" at {first.event_id}"
        yield f"{found.room_id} is not what its events say{at}"
        yield f"  what       {first.what}"
        yield f"  stored     {first.stored}"
        yield f"  should be  {first.expected}"
        yield f"{found.events:,} events before it were found right, in {seconds:.1f} s"
        return
    facts = [
        _count(found.state_events, "state event"),
        _count(found.merges, "merge"),
        f"{found.rejected:,} rejected",
        f"{found.soft_failed:,} soft-failed",
        f"{found.redacted:,} redacted",
    ]
    yield f"{found.room_id} is what its {found.events:,} events say ({', '.join(facts)}), checked in {seconds:.1f} s"
    if found.sec is not None:
        yield f"SEC digest {found.sec}, the same on every node that holds these events"
    if found.soft_failed:
        yield f"not checked: whether {found.soft_failed:,} soft-failed events came too late, as only their arrival says"
    if found.on_claims or found.claims:
        claimed_by = Counter(found.claims)
        yield f"not checked: what is claimed of {len(found.claims):,} gaps; {found.on_claims:,} events are judged by it"
        for server, count in claimed_by.most_common():
            yield f"  {count:,} claimed by {server}"


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"
