"""Does what a peering asks: reads and writes rooms, outbox and peers, and gives it the results.

One unit of work for each effect, in order; nothing is told to a peer before the unit that it speaks of is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from p2pserver.errors import LimitExceeded, MatrixError, Unrecognized
from p2pserver.federation import effects as fx
from p2pserver.federation.held_filter import events_max, filter_of
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.node.gossip import Gossip
from p2pserver.node.healing import Healer
from p2pserver.node.media_serving import MediaServing
from p2pserver.node.session import PDUS_PER_UNIT_MAX, Session
from p2pserver.rooms.edus import receive_edu
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.values import Receipt, ReceiveReport, Standing
from p2pserver.store import outbox
from p2pserver.store.alarms import DIVERGED, raise_alarm
from p2pserver.store.database import Database
from p2pserver.store.peers import events_owed, is_joined_room, joined_rooms, not_held_whole, not_in_graph
from p2pserver.store.tx import Tx
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import HAVE_MAX, decode_json_object, encode_json

log = logging.getLogger(__name__)

S2sHandler = Callable[[Tx, str, dict[str, Any]], dict[str, Any]]
OUTBOX_PAGE = 128
DEAR_UNIT_S = 0.1
"""Of work, the commit not counted. A peer whose events cost more waits as long again, and has fewer judged at once:
others get half of the writer at least, and soon."""


class Surroundings(Protocol):
    """What an exchange asks of the mesh of all sessions."""

    def broadcast(self, session: Session, effect: fx.Broadcast) -> None: ...

    def peer_hears(self, session: Session, effect: fx.PeerHears) -> None: ...

    async def heard_ephemera(self, session: Session, effect: fx.HeardEphemera) -> None: ...

    def greeted(self, session: Session, effect: fx.Greeted) -> None: ...

    def leave(self, session: Session, reason: str) -> None: ...

    def spawn(self, work: Any, *, name: str) -> None: ...

    def peer_marked(self, session: Session, effect: fx.PeerMarked) -> None: ...


class Exchange:
    """The effects of all peerings of this node."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        handlers: Mapping[str, S2sHandler],
        mesh: Surroundings,
        gossip: Gossip,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        healer: Healer,
        media: MediaServing,
    ) -> None:
        self.before_answering: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
        """Hears of each question that another server asks, and may make what it asks for."""
        self._media = media
        self._wall_ms = wall_ms
        self._healer = healer
        self._database = database
        self._rooms = rooms
        self._handlers = handlers
        self._mesh = mesh
        self._gossip = gossip
        self._clock = clock

    async def execute(self, session: Session, effects: list[fx.Effect]) -> None:
        for effect in effects:
            await self._do(session, effect)

    async def _do(self, session: Session, effect: fx.Effect) -> None:
        peering, server = session.peering, session.server_name or ""
        match effect:
            case fx.Receive():
                await self._receive(session, effect)
            case fx.ReadOutbox():
                items, more = await self._database.read(lambda tx: self._owed(tx, server, effect))
                peering.outbox_read(items, self._clock(), more=more)
            case fx.Broadcast():
                self._mesh.broadcast(session, effect)
            case fx.HeardEphemera():
                await self._mesh.heard_ephemera(session, effect)
            case fx.PeerHears():
                self._mesh.peer_hears(session, effect)
            case fx.ForgetOwed():
                await self._database.write(lambda tx: _forget(tx, server, effect))
            case fx.ForgetRoom():
                await self._database.write(lambda tx: self._forget_room(tx, server, effect))
                peering.room_forgotten(effect)
            case fx.ReadRooms():
                views = await self._database.read(lambda tx: self._views(tx, server, joined_rooms(tx)))
                peering.rooms_read(views, self._clock())
            case fx.ReadLeaves():
                views = await self._database.read(lambda tx: self._views(tx, server, _joined(tx, effect.digests)))
                peering.leaves_read(effect, views, self._clock())
            case fx.ReadStandings():
                await self._read_standings(session, effect)
            case fx.Diverged():
                await self._diverged(server, effect)
            case fx.StatesDiffer():
                self._healer.notice_difference(effect.room_id)
            case fx.FindUnknown():
                await self._find_unknown(session, effect)
            case fx.ReadHave():
                if self._gossip.is_asking_others(session, effect.room_id) and peering.put_off(effect, self._clock()):
                    return
                rate = None if session.active is None else session.active.link.profile.bit_rate
                unknown, have, holds = await self._database.read(lambda tx: self._have(tx, server, effect, rate))
                peering.have_read(effect, unknown, have, self._clock(), holds=holds)
            case fx.ReadMissing():
                pdus, more, lacking = await self._database.read(lambda tx: self._missing(tx, server, effect))
                peering.missing_read(effect, pdus, more, lacking, self._clock())
            case fx.StoreItems():
                await self._database.write(lambda tx: self._store_items(tx, server, effect))
                peering.items_stored([number for number, _, _ in effect.items])
            case fx.Forward():
                members = await self._members(session, effect.room_id)
                self._gossip.forward(session, effect.room_id, effect.event_ids, members)
            case fx.Changed():
                self._gossip.changed(session, effect.room_id, await self._members(session, effect.room_id))
            case fx.NobodyHas():
                await self._nobody_has(session, effect)
            case fx.Serve():
                self._mesh.spawn(self._serve(session, effect), name=f"serve {effect.name}")
            case fx.AnswerArriving():
                session.answer_arriving(effect)
            case fx.Answered() | fx.Unanswered():
                session.answered(effect)
            case fx.ReadMedia():
                self._mesh.spawn(self._media.serve(session, effect), name="serve media")
            case fx.MediaArrived() | fx.MediaUnanswered():
                session.media_answered(effect)
            case fx.PeerMarked():
                self._mesh.peer_marked(session, effect)
            case fx.Greeted():
                self._mesh.greeted(session, effect)
            case fx.Leave():
                self._mesh.leave(session, effect.reason)

    # Rooms, reading

    def _may_ask(self, tx: Tx, server: str, room_id: str) -> bool:
        return self._rooms.may_see_room(tx, server, room_id) and not self._rooms.denies(tx, room_id, server)

    def _views(self, tx: Tx, server: str, room_ids: Iterable[str]) -> list[fx.RoomView]:
        shared = set(self._rooms.rooms_with(tx, server))
        return [
            fx.RoomView(
                room_id=room_id,
                leaves=tuple(sorted(self._rooms.leaves(tx, room_id))),
                shared=room_id in shared,
                may_see=self._rooms.may_see_room(tx, server, room_id),
                owed=events_owed(tx, server, room_id),
                wanted=tuple(self._rooms.wanted(tx, room_id)),
                complete=self._rooms.is_complete(tx, room_id),
            )
            for room_id in room_ids
            if not self._rooms.denies(tx, room_id, server)
        ]

    async def _members(self, session: Session, room_id: str) -> list[str]:
        """Servers in the room with which we talk about it, in an order that does not depend on the process.

        [] when nobody else is in reach.
        """
        if not self._gossip.has_others(session):
            return []
        return await self._database.read(lambda tx: self._rooms.talking_servers(tx, room_id))

    async def _read_standings(self, session: Session, effect: fx.ReadStandings) -> None:
        server = session.server_name or ""

        def read(tx: Tx) -> list[Standing]:
            seen = [room_id for room_id in _joined(tx, effect.told) if self._may_ask(tx, server, room_id)]
            return [found for found in (self._rooms.standing(tx, room_id) for room_id in seen) if found is not None]

        standings = await self._database.read(read)
        session.peering.standings_read(
            effect,
            [
                fx.RoomStanding(room_id=each.room_id, leaves=each.leaves, sec=each.sec, current=each.operational)
                for each in standings
            ],
        )
        for each in standings:
            if each.width > PREV_EVENTS_MAX:
                self._healer.notice_width(each.room_id)

    async def _diverged(self, server: str, effect: fx.Diverged) -> None:
        details = {"ours": effect.ours.hex(), "theirs": effect.theirs.hex()}

        def write(tx: Tx) -> bool:
            return raise_alarm(
                tx, room_id=effect.room_id, kind=DIVERGED, about=server, details=details, now_ms=self._wall_ms()
            )

        if await self._database.write(write):
            log.warning(
                "a peer makes something else of the same events: a bug, a broken disk, or it lies",
                extra={"peer": server, "room_id": effect.room_id},
            )

    async def _find_unknown(self, session: Session, effect: fx.FindUnknown) -> None:
        server = session.server_name or ""

        def read(tx: Tx) -> tuple[list[str], fx.RoomView | None]:
            if not is_joined_room(tx, effect.room_id) or self._rooms.denies(tx, effect.room_id, server):
                return [], None
            lacking = not_in_graph if effect.as_leaves else not_held_whole
            unknown = lacking(tx, effect.event_ids, or_parked=not effect.as_leaves)
            return unknown, self._views(tx, server, [effect.room_id])[0]

        unknown, view = await self._database.read(read)
        if not effect.as_leaves:
            unknown = self._gossip.claim_unknown(session, unknown)
        session.peering.unknown_found(effect, unknown, view, self._clock())

    def _have(
        self, tx: Tx, server: str, effect: fx.ReadHave, bit_rate: int | None
    ) -> tuple[list[str], list[str], bytes]:
        unknown = not_held_whole(tx, effect.event_ids, or_parked=False)
        if not unknown or self._rooms.denies(tx, effect.room_id, server):
            return [], [], b""
        absent = not_in_graph(tx, unknown, or_parked=False)
        copies = set(unknown).difference(absent)
        if not absent:
            return unknown, [], filter_of(copies, effect.salt)
        have = self._rooms.have_sample(tx, effect.room_id, HAVE_MAX)
        newest = self._rooms.newest_held(tx, effect.room_id, events_max(bit_rate) - len(copies))
        return unknown, have, filter_of(copies.union(newest), effect.salt)

    def _missing(self, tx: Tx, server: str, effect: fx.ReadMissing) -> tuple[list[dict[str, Any]], bool, list[str]]:
        if not self._may_ask(tx, server, effect.room_id):
            return [], False, list(effect.want)
        absent = set(not_in_graph(tx, effect.want, or_parked=False))
        copies = self._rooms.genuine_copies(tx, effect.copies - absent, origin=server)
        lacking = [each for each in effect.want if each in absent or (each in effect.copies and each not in copies)]
        want = [each for each in effect.want if each not in absent and each not in effect.copies]
        pdus: list[dict[str, Any]] = []
        more = False
        if want:
            pdus, more = self._rooms.missing_for(
                tx,
                room_id=effect.room_id,
                want=want,
                have=list(effect.have),
                octets_max=effect.octets_max,
                origin=server,
                known=effect.known,
            )
        return [*pdus, *copies.values()], more, lacking

    # Rooms, writing

    async def _receive(self, session: Session, effect: fx.Receive) -> None:
        server = session.server_name or ""

        report, lacking, width = ReceiveReport(), list(effect.asked), 0

        def write(tx: Tx, pdus: Sequence[Mapping[str, Any]]) -> tuple[ReceiveReport, list[str], int, float]:
            began_s = self._clock()
            if self._rooms.denies(tx, effect.room_id, server):
                part = self._rooms.refuse(tx, room_id=effect.room_id, raws=pdus)
            elif effect.overheard:
                part = self._rooms.receive_overheard(tx, room_id=effect.room_id, raws=pdus)
            else:
                part = self._rooms.receive(
                    tx, room_id=effect.room_id, raws=pdus, source=server, backfill=effect.in_answer
                )
            missing = dict.fromkeys((*report.missing, *part.missing))
            most = self._rooms.context.limits.wanted_at_once
            part.missing = not_held_whole(tx, tuple(missing), or_parked=True)[:most]
            lacking = not_held_whole(tx, effect.asked, or_parked=True)
            return part, lacking, self._rooms.width(tx, effect.room_id), self._clock() - began_s

        pdus = effect.pdus
        while True:
            unit = partial(write, pdus=pdus[: session.pdus_per_unit])
            pdus = pdus[session.pdus_per_unit :]
            part, lacking, width, took_s = await self._database.write(unit)
            report.results += part.results
            report.released += part.released
            report.missing = part.missing
            if took_s > DEAR_UNIT_S:
                session.pdus_per_unit = max(1, session.pdus_per_unit // 4)
                await asyncio.sleep(took_s)
            else:
                session.pdus_per_unit = min(PDUS_PER_UNIT_MAX, 2 * session.pdus_per_unit)
            if not pdus:
                break
        results = [_result(receipt) for receipt in (*report.results, *report.released)]
        session.peering.received(effect, results, report.missing, lacking, self._clock())
        if width > PREV_EVENTS_MAX:
            self._healer.notice_width(effect.room_id)

    async def _nobody_has(self, session: Session, effect: fx.NobodyHas) -> None:
        def read(tx: Tx) -> list[str]:
            if not is_joined_room(tx, effect.room_id):
                return []
            wanted = set(self._rooms.wanted(tx, effect.room_id))
            copies = set(not_held_whole(tx, effect.event_ids, or_parked=True)) - set(
                not_in_graph(tx, effect.event_ids, or_parked=True)
            )
            return [event_id for event_id in effect.event_ids if event_id in wanted or event_id in copies]

        missed = await self._database.read(read)
        if missed:
            members = await self._members(session, effect.room_id)
            self._gossip.want_elsewhere(session, effect.room_id, missed, members)

    # Outbox and items

    def _owed(self, tx: Tx, server: str, effect: fx.ReadOutbox) -> tuple[list[fx.OwedItem], bool]:
        page = outbox.page(tx, server, after=effect.after, most=OUTBOX_PAGE, octets_max=effect.octets_max)
        owed = [
            fx.OwedItem(
                number=item.number,
                kind=item.kind,
                room_id=item.room_id,
                event_id=item.event_id,
                payload=item.payload,
            )
            for item in page
        ]
        return owed, bool(page) and outbox.is_owed_beyond(tx, server, page[-1].number)

    def _forget_room(self, tx: Tx, server: str, effect: fx.ForgetRoom) -> None:
        if tuple(sorted(self._rooms.leaves(tx, effect.room_id))) == effect.leaves:
            outbox.forget_room_pdus(tx, server, effect.room_id)

    def _store_items(self, tx: Tx, server: str, effect: fx.StoreItems) -> None:
        for _, kind, text in effect.items:
            try:
                payload = decode_json_object(text)
                if kind == "invite":
                    self._rooms.receive_invite(tx, origin=server, payload=payload)
                else:
                    edu_type, content = payload.get("edu_type"), payload.get("content")
                    if isinstance(edu_type, str) and isinstance(content, dict):
                        receive_edu(tx, server, edu_type, content)
            except (WireError, MatrixError) as error:
                log.info("item refused", extra={"peer": server, "kind": kind, "reason": str(error)})

    # Questions

    async def _serve(self, session: Session, effect: fx.Serve) -> None:
        ok, answer = await self._answer(session.server_name or "", effect)
        try:
            body = encode_json(answer)
        except WireError:
            log.exception("an answer is not JSON", extra={"question": effect.name})
            ok, body = False, encode_json({"errcode": "M_UNKNOWN", "error": "internal error"})
        session.peering.served(effect.number, ok=ok, body=body)
        session.wake()

    async def _answer(self, server: str, effect: fx.Serve) -> tuple[bool, dict[str, Any]]:
        handler = self._handlers.get(effect.name)
        try:
            if handler is None:
                raise Unrecognized(f"there is no question {effect.name}")
            body = decode_json_object(effect.body)
            if self.before_answering is not None:
                await self.before_answering(effect.name, body)
            return True, await self._database.write(lambda tx: handler(tx, server, body))
        except MatrixError as error:
            return False, error.body()
        except WireError as error:
            return False, {"errcode": "M_BAD_JSON", "error": str(error)}
        except Exception:
            # The edge of the process: a mistake of ours in one answer must not end the conversation.
            log.exception("question failed", extra={"peer": server, "question": effect.name})
            return False, {"errcode": "M_UNKNOWN", "error": "internal error"}


def _joined(tx: Tx, room_ids: Iterable[str]) -> list[str]:
    return [room_id for room_id in room_ids if is_joined_room(tx, room_id)]


def _forget(tx: Tx, server: str, effect: fx.ForgetOwed) -> None:
    outbox.forget_pdus(tx, server, effect.event_ids)
    outbox.forget_numbers(tx, server, effect.numbers)


def _result(receipt: Receipt) -> fx.PduResult:
    return fx.PduResult(receipt.event_id, receipt.verdict, receipt.new)


def error_of(body: dict[str, Any]) -> MatrixError:
    """The error that another server answered with, as the same class here."""
    errcode, message = body.get("errcode"), body.get("error")
    text = message[:500] if isinstance(message, str) else "the other server refused"
    kind = _ERRORS.get(errcode, MatrixError) if isinstance(errcode, str) else MatrixError
    if kind is LimitExceeded:
        retry_after_ms = body.get("retry_after_ms")
        return LimitExceeded(text, retry_after_ms=retry_after_ms if type(retry_after_ms) is int else 1000)
    version = body.get("room_version")
    return kind(text, room_version=version) if isinstance(version, str) else kind(text)


def _subclasses(kind: type[MatrixError]) -> Iterable[type[MatrixError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


_ERRORS: dict[str, type[MatrixError]] = {}
for _kind in _subclasses(MatrixError):
    if _kind.errcode != MatrixError.errcode:
        _ERRORS.setdefault(_kind.errcode, _kind)
