"""What the hostile third of the town does, by the numbers of the catalogue (docs/byzantine.md).

Each lie is a function of one liar and of the honest nodes that it can talk to now. It returns the IDs of the events
that it made, under the number of the case; "" stands for an event or a message that has no ID.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.events.signing import Signer
from p2pserver.store import events
from p2pserver.wire import messages as m
from tests.byzantine.liar import Liar

FLOOD_EVENTS = 12


@dataclass(slots=True)
class Plot:
    """What the liars share: chance, and what they hold back for later."""

    rng: random.Random
    room_id: str
    stranger: Signer
    banned: set[str] = field(default_factory=set)
    """Names of the liars whose user is banned."""
    before_ban: dict[str, list[str]] = field(default_factory=dict)
    """By the name of a banned liar, extremities from before its ban."""
    powerful: set[str] = field(default_factory=set)
    held_back: list[tuple[str, list[Any]]] = field(default_factory=list)
    """(liar, events) that nobody has seen yet."""


Lie = Callable[[Plot, Liar, Sequence[str]], Awaitable[list[str]]]


async def state_of(liar: Liar, plot: Plot) -> dict[tuple[str, str], str]:
    """The current state as the liar's honest half sees it."""
    rooms = liar.mesh.nodes[liar.name].running.rooms
    return await liar.read(lambda tx: dict(rooms.current_state(tx, plot.room_id)))


async def forged_signature(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    event = await liar.make(body="signed by another", signers=(plot.stranger,), hide=False)
    liar.push_all(victims, [event])
    return [event.event_id]


async def another_ones_name(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    sender = f"@resident:{liar.mesh.nodes[victims[0]].server_name}"
    event = await liar.make(body="you said this", sender=sender, hide=False)
    liar.push_all(victims, [event])
    return [event.event_id]


async def wrong_hash(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    event = await liar.make(body="what was hashed", hide=False)
    liar.push(victims[0], event.changed(content={"msgtype": "m.text", "body": "what is said"}))
    return [event.event_id]


async def twins(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    event = await liar.make(body="genuine")
    liar.push(victims[0], event.changed(content={"msgtype": "m.text", "body": "the evil twin"}))
    liar.push(victims[-1], event)
    return [event.event_id]


async def equivocation(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    made = []
    for victim in victims:
        event = await liar.make("m.room.topic", {"topic": f"only for {victim}"}, state_key="")
        liar.push(victim, event)
        made.append(event.event_id)
    if len(victims) == 1:
        event = await liar.make("m.room.topic", {"topic": "and another"}, state_key="")
        liar.push(victims[0], event)
        made.append(event.event_id)
    return made


async def bad_parents(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    none = await liar.make(body="on nothing", prev=[], state=await state_of(liar, plot), hide=False)
    twice = await liar.make(body="twice", prev=[(await liar.leaves())[0]] * 2)
    liar.push_all(victims, [none, twice])
    return [none.event_id, twice.event_id]


async def too_many_parents(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    leaves = await liar.leaves()
    made_up = [f"${number:043}" for number in range(21)]
    event = await liar.make(body="21 parents", prev=[*leaves[:1], *made_up][:21], hide=False)
    liar.push_all(victims, [event])
    return [event.event_id]


async def lying_depth(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    deep = await liar.make(body="very deep", depth=plot.rng.choice((0, 2**53 - 1)))
    wrong = await liar.make(body="no depth", depth=-1, hide=False)
    liar.push_all(victims, [deep, wrong])
    return [deep.event_id, wrong.event_id]


async def lying_time(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    event = await liar.make(
        "m.room.name", {"name": "from another time"}, state_key="", ts=plot.rng.choice((0, 2**53 - 1))
    )
    liar.push_all(victims, [event])
    return [event.event_id]


async def too_large(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    event = await liar.make(body="x" * 66_000, hide=False)
    liar.push(victims[0], event)
    return [event.event_id]


async def wrong_types(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    bad = plot.rng.choice(
        ({"content": ["a", "list"]}, {"auth_events": "one"}, {"depth": "deep"}, {"sender": 7}, {"type": None})
    )
    event = await liar.make(body="typed wrongly", fields=bad, hide=False)
    liar.push_all(victims, [event])
    return [event.event_id]


async def wrong_auth_events(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    state = await state_of(liar, plot)
    members = sorted(event_id for (kind, _), event_id in state.items() if kind == "m.room.member")
    event = await liar.make(body="by your leave", auth=[*members[:3]])
    liar.push_all(victims, [event])
    return [event.event_id]


async def no_right(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Power levels by who may not change them."""
    levels = {"users": {liar.user_id: 100}}
    event = await liar.make("m.room.power_levels", levels, state_key="")
    liar.push_all(victims, [event])
    return [event.event_id]


async def flood(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    leaves = await liar.leaves()
    many = [await liar.make(body=f"flood {number}", prev=leaves[:1]) for number in range(FLOOD_EVENTS)]
    liar.push_all(victims[:1], many)
    return [event.event_id for event in many]


async def duel(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """A powerful liar takes an honest moderator's level away, or gives a friend one; differently to each victim."""
    made = []
    rooms = liar.mesh.nodes[liar.name].running.rooms
    now = await liar.read(lambda tx: rooms.current_event(tx, plot.room_id, "m.room.power_levels"))
    if now is None:
        return []
    content = dict(now.content)
    for victim in victims[:2]:
        users = dict(content.get("users", {}))
        users[f"@resident:{liar.mesh.nodes[victim].server_name}"] = plot.rng.choice((0, 25))
        event = await liar.make("m.room.power_levels", {**content, "users": users}, state_key="")
        liar.push(victim, event)
        made.append(event.event_id)
    return made


async def hold_back(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """A branch that nobody sees before `release`."""
    if plot.held_back and plot.rng.random() < 0.6:
        return await release(plot, liar, victims)
    chain = await liar.make_chain(3)
    plot.held_back.append((liar.name, chain))
    return []


async def release(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Hours or days later, the newest first."""
    _, chain = plot.held_back.pop(0)
    liar.push_all(victims[:1], list(reversed(chain)))
    return [event.event_id for event in chain]


async def backdate(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """A banned user writes on what was there before the ban."""
    prev = plot.before_ban.get(liar.name)
    if not prev:
        return await no_right(plot, liar, victims)
    event = await liar.make(body="I was here before", prev=prev[:3])
    liar.push_all(victims, [event])
    return [event.event_id]


async def replay(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Old events of others again, in any order, twice."""

    def read(tx: Any) -> list[Any]:
        rows = tx.all(
            "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0 ORDER BY position", (plot.room_id,)
        )
        some = plot.rng.sample(rows, min(10, len(rows)))
        return [found.raw for (event_id,) in some if (found := events.pdu(tx, event_id)) is not None]

    raws = await liar.read(read)
    liar.push_all(victims, [*raws, *reversed(raws)])
    return [""]


async def garbage(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Octets that are no message: the conversation ends, and begins anew after a while."""
    liar.say_octets(victims[0], plot.rng.randbytes(plot.rng.randint(1, 400)))
    return [""]


async def stale_beacon(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Claims to stand where the room was long ago."""

    def read(tx: Any) -> list[str]:
        rows = tx.all(
            "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0 ORDER BY position LIMIT 40", (plot.room_id,)
        )
        return [plot.rng.choice(rows)[0]]

    old = await liar.read(read)
    liar.say(victims[0], m.Beacons((liar.beacon(victims[0], plot.room_id, old),)))
    liar.say(victims[0], m.Leaves(plot.room_id, tuple(old), False))
    return [""]


async def redact_others(plot: Plot, liar: Liar, victims: Sequence[str]) -> list[str]:
    """Redacts the power levels, without the right to."""
    state = await state_of(liar, plot)
    target = state.get(("m.room.power_levels", ""), "")
    event = await liar.make("m.room.redaction", {"redacts": target})
    liar.push_all(victims, [event])
    return [event.event_id]


LIES: dict[str, tuple[str, Lie]] = {
    "forged signature": ("B01", forged_signature),
    "another one's name": ("B01", another_ones_name),
    "wrong content hash": ("B02", wrong_hash),
    "twins with one ID": ("B03", twins),
    "equivocation": ("B04", equivocation),
    "bad parents": ("B06", bad_parents),
    "21 parents": ("B07", too_many_parents),
    "lying depth": ("B08", lying_depth),
    "lying time": ("B09", lying_time),
    "over 64 KiB": ("B10", too_large),
    "wrong types": ("B12", wrong_types),
    "wrong auth events": ("B13", wrong_auth_events),
    "no right to": ("B14", no_right),
    "flood on one parent": ("B15", flood),
    "duel of power levels": ("B19", duel),
    "held back, released late": ("B21", hold_back),
    "backdated after a ban": ("B22", backdate),
    "replay": ("B26", replay),
    "garbage": ("B12", garbage),
    "stale beacon": ("B33", stale_beacon),
    "redaction without right": ("B31", redact_others),
}
POWERFUL = {"duel of power levels"}
"""Only for liars that were given a level."""

__all__ = ["LIES", "POWERFUL", "Lie", "Plot"]
