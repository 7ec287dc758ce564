"""A node of the mesh in the hands of an attacker, with a valid key and a seat in the room.

The node is a real one: it shakes hands on the link, says Hello, joins rooms, holds them, and its users are members like
others. Its *honest half* goes on running. The attacker sits between that half and the link: it hears every message
first, may answer it instead, may suppress or falsify what the honest half says, and may say anything itself.

What the attacker makes is kept in an `Arsenal`, out of sight of the honest half; several liars share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cbor2

from p2pserver.errors import MatrixError
from p2pserver.events.signing import Signer
from p2pserver.events.versions import RoomVersionRules
from p2pserver.federation.beacons import BeaconKey
from p2pserver.federation.held_filter import HeldThere
from p2pserver.link import Priority
from p2pserver.meg.auth import auth_slots
from p2pserver.meg.state import StateSlot
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.session import Session
from p2pserver.node.simulation import WALL_START_MS, RoomActions, SimulatedMesh
from p2pserver.rooms.sending import room_of
from p2pserver.store import events, graph_ends
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx
from p2pserver.wire import messages as m
from tests.byzantine.forgery import Forged, Raw, Tamper, forge

T = TypeVar("T")

ANSWER_OCTETS = 200 * 1024
PDUS_NUMBER = 5

Tongue = Callable[[str, m.Message], Sequence[m.Message]]
"""(victim, what the honest half wants to say to it) -> what is said instead."""

Script = Callable[[str, Any], Sequence[m.Message] | None]
"""(victim, a message from it) -> the answer; None lets the honest half answer."""


@dataclass(slots=True)
class Arsenal:
    """Events that the attackers made, by ID, in the order of making, and the states that they would lead to."""

    events: dict[str, Forged] = field(default_factory=dict)
    states: dict[str, dict[StateSlot, str]] = field(default_factory=dict)

    def closure(self, wanted: Collection[str], have: Collection[str]) -> list[Forged]:
        """The wanted events and what they cite, as far as they are in here, in the order of making."""
        found: set[str] = set()
        todo = [each for each in wanted if each in self.events]
        while todo:
            event_id = todo.pop()
            if event_id in found or (event_id in have and event_id not in wanted):
                continue
            found.add(event_id)
            raw = self.events[event_id].raw
            todo += [each for each in (*raw["prev_events"], *raw["auth_events"]) if each in self.events]
        return [forged for event_id, forged in self.events.items() if event_id in found]


def as_it_is(victim: str, message: m.Message) -> Sequence[m.Message]:
    """The tongue of a node that says what its honest half would say."""
    return (message,)


class Liar:
    """Node `name`, whose owner attacks. Make it after `mesh.start()`; it takes over all conversations, old and new."""

    def __init__(self, mesh: SimulatedMesh, name: str, arsenal: Arsenal) -> None:
        self.mesh, self.name, self.arsenal = mesh, name, arsenal
        self.heard: list[tuple[str, m.Message]] = []
        """(victim, message), everything that was said to this node."""
        self.tongue: Tongue = as_it_is
        self.scripts: dict[type, Script] = {}
        """By the kind of message that is heard."""
        self.withheld: set[str] = set()
        """Events that this node says it does not have, whether it has them or not."""
        self.client: InProcessClient
        """Its user; set when it joins a room."""
        self.room: RoomActions
        self._tasks: set[asyncio.Task[None]] = set()
        own = mesh.nodes[name].running.mesh
        honest_new = own._new_session

        def new_session(*args: Any, **options: Any) -> Session:
            session = honest_new(*args, **options)
            self._take_over(session)
            return session

        own._new_session = new_session  # type: ignore[method-assign]
        for session in own._sessions.values():
            self._take_over(session)

    # Who it is

    @property
    def server_name(self) -> str:
        return self.mesh.nodes[self.name].server_name

    @property
    def user_id(self) -> str:
        return self.client.user_id

    @property
    def signer(self) -> Signer:
        return self.mesh.nodes[self.name].identity.signer

    @property
    def database(self) -> InlineDatabase:
        database = self.mesh.nodes[self.name].database
        assert database is not None
        return database

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self.database.read(query)

    # Hearing

    def _take_over(self, session: Session) -> None:
        names = {node.identity.signer.verify_key: each for each, node in self.mesh.nodes.items()}
        peering, victim = session.peering, names.get(session.key, "?")
        honest_receive, honest_say = peering.receive, peering.messages_to_send

        def receive(data: bytes, now: float) -> None:
            message = m.decode_message(data)
            self.heard.append((victim, message))
            if isinstance(message, m.Hello) or not self._answers(victim, message):
                honest_receive(data, now)

        def messages_to_send(now: float, octets: int) -> list[tuple[bytes, Priority]]:
            if self.tongue is as_it_is:
                return honest_say(now, octets)
            said = []
            for data, priority in honest_say(now, octets):
                message = m.decode_message(data)
                if isinstance(message, m.Hello):
                    said.append((data, priority))
                    continue
                said += [(m.encode_message(each), priority) for each in self.tongue(victim, message)]
            return said

        peering.receive = receive  # type: ignore[method-assign]
        peering.messages_to_send = messages_to_send  # type: ignore[method-assign]

    def _answers(self, victim: str, message: m.Message) -> bool:
        script = self.scripts.get(type(message))
        answer = None if script is None else script(victim, message)
        if answer is not None:
            self.say(victim, *answer)
            return True
        if isinstance(message, m.Want) and any(
            each in self.arsenal.events or each in self.withheld for each in message.want
        ):
            task = asyncio.ensure_future(self._serve(victim, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        return False

    async def _serve(self, victim: str, want: m.Want) -> None:
        """Answers from the arsenal and from what the honest half holds, but for what is withheld."""
        server = self.mesh.nodes[victim].server_name
        rooms = self.mesh.nodes[self.name].running.rooms
        held_there = HeldThere((), want.holds)
        given = [each for each in want.want if each not in self.withheld]
        copies = [each for each in given if held_there.is_in_filter(each)]
        absent = [each for each in given if each not in copies]
        hidden = self.arsenal.closure(absent, want.have)
        hidden += [self.arsenal.events[each] for each in copies if each in self.arsenal.events]

        def held(tx: Tx) -> list[Raw]:
            found = list(rooms.genuine_copies(tx, copies, origin=server).values())
            known = [each for each in absent if events.stored(tx, each) is not None]
            if not known:
                return found
            pdus, _ = rooms.missing_for(
                tx,
                room_id=want.room_id,
                want=known,
                have=list(want.have),
                octets_max=ANSWER_OCTETS,
                origin=server,
                known=held_there,
            )
            return [*pdus, *found]

        raws = await self.read(held)
        raws += [
            forged.raw
            for forged in hidden
            if forged.event_id not in self.withheld
            and (forged.event_id in want.want or forged.event_id not in held_there)
        ]
        if server not in self.mesh.nodes[self.name].running.mesh.connected():
            return
        if not raws:
            self.say(victim, m.Lacking(want.room_id, want.want))
            return
        fitting, octets = 0, 0
        for raw in raws:
            octets += len(cbor2.dumps(raw))
            if fitting and octets > ANSWER_OCTETS:
                break
            fitting += 1
        self.push(victim, *raws[:fitting], room_id=want.room_id, in_answer=True, more=fitting < len(raws))

    def heard_of(self, kind: type[T], victim: str | None = None) -> list[T]:
        return [said for whom, said in self.heard if isinstance(said, kind) and victim in (None, whom)]

    # Saying

    def session(self, victim: str) -> Session:
        return self.mesh.nodes[self.name].running.mesh._by_name[self.mesh.nodes[victim].server_name]

    def say(self, victim: str, *messages: m.Message) -> None:
        for message in messages:
            self.say_octets(victim, m.encode_message(message))

    def say_octets(self, victim: str, data: bytes, priority: Priority = Priority.STATE) -> None:
        """Any octets at all, as one message of the conversation."""
        session = self.session(victim)
        session.conversation.send(data, priority)
        session.wake()
        if session.active is not None:
            session.active.wake()

    def push(
        self,
        victim: str,
        *pdus: Forged | Mapping[str, Any],
        room_id: str | None = None,
        in_answer: bool = False,
        more: bool = False,
    ) -> None:
        """PDUs, as one message, whatever they hold."""
        raws = [pdu.raw if isinstance(pdu, Forged) else pdu for pdu in pdus]
        room_id = self.room.room_id if room_id is None else room_id
        self.say_octets(victim, cbor2.dumps([PDUS_NUMBER, room_id, raws, more, in_answer]))

    def push_all(self, victims: Collection[str], pdus: Sequence[Forged | Mapping[str, Any]]) -> None:
        """To each of them, in as many messages as it takes."""
        for victim in victims:
            part: list[Forged | Mapping[str, Any]] = []
            octets = 0
            for pdu in pdus:
                size = len(cbor2.dumps(pdu.raw if isinstance(pdu, Forged) else pdu))
                if part and (octets + size > ANSWER_OCTETS or len(part) >= m.PDUS_MAX):
                    self.push(victim, *part)
                    part, octets = [], 0
                part.append(pdu)
                octets += size
            if part:
                self.push(victim, *part)

    def mute(self, *kinds: type, to: Collection[str] | None = None) -> None:
        """The honest half says no messages of these kinds (of any kind, if none is named) to these victims (to any)."""

        def tongue(victim: str, message: m.Message) -> Sequence[m.Message]:
            concerned = (not kinds or isinstance(message, kinds)) and (to is None or victim in to)
            return () if concerned else (message,)

        self.tongue = tongue

    def unmute(self) -> None:
        self.tongue = as_it_is

    def beacon(self, victim: str, room_id: str, leaves: Collection[str]) -> m.Beacon:
        """The beacon of a room, as one who holds these leaves would say it."""
        theirs = self.mesh.nodes[victim].running.mesh._by_name[self.server_name].peering
        mine = (self.server_name, self.session(victim).peering._salt)
        return BeaconKey(mine, (self.mesh.nodes[victim].server_name, theirs._salt)).beacon(room_id, tuple(leaves))

    async def ask(self, victim: str, name: str, body: dict[str, Any], *, timeout_s: float = 30.0) -> dict[str, Any]:
        """A question to the victim. Raises: MatrixError."""
        own = self.mesh.nodes[self.name].running.mesh
        return await own.ask(self.mesh.nodes[victim].server_name, name, body, timeout_s=timeout_s)

    def falsify_answers(self, name: str, alter: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        """Answers to the question `name`: `alter(victim, honest answer)`, which may raise a MatrixError."""
        handlers = dict(self.mesh.nodes[self.name].running.mesh.exchange._handlers)
        honest = handlers[name]

        def handler(tx: Tx, server: str, body: dict[str, Any]) -> dict[str, Any]:
            try:
                answer = honest(tx, server, body)
            except MatrixError:
                answer = {}
            return alter({node.server_name: each for each, node in self.mesh.nodes.items()}[server], answer)

        handlers[name] = handler
        self.mesh.nodes[self.name].running.mesh.exchange._handlers = handlers

    # Making

    async def rules(self, room_id: str | None = None) -> RoomVersionRules:
        return await self.read(lambda tx: room_of(tx, room_id or self.room.room_id).rules)

    async def leaves(self, room_id: str | None = None) -> list[str]:
        """The forward extremities of the room as the honest half sees them."""
        return await self.read(lambda tx: graph_ends.extremities(tx, room_id or self.room.room_id))

    async def state_after(self, event_id: str) -> dict[StateSlot, str]:
        if event_id in self.arsenal.states:
            return self.arsenal.states[event_id]
        rooms = self.mesh.nodes[self.name].running.rooms
        return await self.read(lambda tx: dict(rooms.state_after(tx, event_id)))

    async def make(
        self,
        event_type: str = "m.room.message",
        content: Mapping[str, Any] | None = None,
        *,
        body: str = "a lie",
        sender: str | None = None,
        state_key: str | None = None,
        room_id: str | None = None,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        state: Mapping[StateSlot, str] | None = None,
        depth: int | None = None,
        ts: int | None = None,
        fields: Mapping[str, Any] | None = None,
        without: Collection[str] = (),
        signers: Sequence[Signer] | None = None,
        after: Tamper | None = None,
        hide: bool = True,
    ) -> Forged:
        """An event at any place of the graph, by default a message of this node's user on all extremities.

        `prev` are parents, held or made; auth events follow from `state` (by default that after the first parent),
        unless `auth` names them. `fields` are put over the rest, and those named in `without` taken away, before
        hashing and signing. `signers`: by default this node alone. `after` changes what is signed. With `hide` the
        event goes into the arsenal, from which it is served to whoever asks.
        """
        room_id = room_id or self.room.room_id
        rules = await self.rules(room_id)
        prev = await self.leaves(room_id) if prev is None else prev
        sender = self.user_id if sender is None else sender
        content = {"msgtype": "m.text", "body": body} if content is None else dict(content)
        if state is None:
            state = await self._state_before(prev)
        if auth is None:
            slots = auth_slots(event_type=event_type, sender=sender, state_key=state_key, content=content, rules=rules)
            auth = [state[slot] for slot in slots if slot in state]
        raw: Raw = {
            "type": event_type,
            "room_id": room_id,
            "sender": sender,
            "content": content,
            "prev_events": list(prev),
            "auth_events": list(auth),
            "depth": await self._depth(prev) if depth is None else depth,
            "origin_server_ts": self.now_ms() if ts is None else ts,
        }
        if state_key is not None:
            raw["state_key"] = state_key
        raw.update(fields or {})
        for name in without:
            raw.pop(name, None)
        forged = forge(raw, rules, (self.signer,) if signers is None else signers, after)
        if hide and forged.event_id:
            self.arsenal.events[forged.event_id] = forged
            own = {} if state_key is None else {(event_type, state_key): forged.event_id}
            self.arsenal.states[forged.event_id] = {**state, **own}
        return forged

    def now_ms(self) -> int:
        return WALL_START_MS + int(asyncio.get_running_loop().time() * 1000)

    async def _state_before(self, prev: Sequence[str]) -> dict[StateSlot, str]:
        state: dict[StateSlot, str] = {}
        for event_id in reversed(prev):
            try:
                state.update(await self.state_after(event_id))
            except KeyError:
                continue
        if state or not hasattr(self, "room"):
            return state
        rooms, room_id = self.mesh.nodes[self.name].running.rooms, self.room.room_id
        return await self.read(lambda tx: dict(rooms.current_state(tx, room_id)))

    async def _depth(self, prev: Sequence[str]) -> int:
        facts = await self.read(lambda tx: events.facts(tx, tuple(prev)))
        made = [self.arsenal.events[each].raw["depth"] for each in prev if each in self.arsenal.events]
        depths = [fact.depth for fact in facts.values()] + [each for each in made if type(each) is int]
        return min(max(depths, default=0) + 1, 2**53 - 1)

    async def make_chain(self, length: int, *, prev: Sequence[str] | None = None, body: str = "link") -> list[Forged]:
        """Messages, each on the one before."""
        chain: list[Forged] = []
        for number in range(length):
            chain.append(await self.make(body=f"{body} {number}", prev=prev))
            prev = [chain[-1].event_id]
        return chain
