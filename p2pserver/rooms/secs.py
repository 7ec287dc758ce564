"""What is kept of the SEC digest with each event: a hash over what was decided on it and on its ancestors."""

from __future__ import annotations

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.meg.digest import event_sec
from p2pserver.rooms.judging import Judgement
from p2pserver.store import events, graph_walks, state_groups
from p2pserver.store.tx import Tx


def sec_of(tx: Tx, event: Pdu, judgement: Judgement) -> bytes | None:
    """The `sec` of an event, from those of its parents; None while a claim has a part in its verdict."""
    if not judgement.grounded:
        return None
    parents = events.secs(tx, event.room_id, event.prev_events)
    if None in parents.values():
        events.set_secs(tx, missing_secs(tx, event.room_id))
        parents = events.secs(tx, event.room_id, event.prev_events)
    return event_sec(
        event.event_id,
        rejected=judgement.verdict is Verdict.REJECTED,
        state_before=state_groups.digest(tx, judgement.state_before),
        state_after=state_groups.digest(tx, judgement.state_after),
        parents=[sec for sec in parents.values() if sec is not None],
    )


def missing_secs(tx: Tx, room_id: str) -> dict[str, bytes]:
    """What a database of an earlier version does not have yet, parents first."""
    found: dict[str, bytes] = {}
    for event_id in graph_walks.without_sec_in_order(tx, room_id):
        row = tx.one("SELECT verdict, state_before, state_after FROM events WHERE event_id = ?", (event_id,))
        parents = events.secs(tx, room_id, graph_walks.parents(tx, event_id))
        if row is not None:
            found[event_id] = event_sec(
                event_id,
                rejected=row[0] == "rejected",
                state_before=state_groups.digest(tx, row[1]),
                state_after=state_groups.digest(tx, row[2]),
                parents=[known or found.get(parent, b"") for parent, known in parents.items()],
            )
    return found
