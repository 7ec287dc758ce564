"""All conversations of the node: links in, sessions by peer, questions out. To `rooms` it is the `RemoteServers`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from p2pserver import __version__
from p2pserver.errors import PeerUnreachable
from p2pserver.federation import effects as fx
from p2pserver.federation.limits import PeeringLimits
from p2pserver.federation.peering import Peering
from p2pserver.link import Conversation, LinkEndpoint, datagram_octets, pacer_for, timers_for
from p2pserver.link.errors import PeerCut
from p2pserver.link.network_key import NetworkKey
from p2pserver.mesh.neighbors import Neighbors, PipeFacts, RunsHeard, newer_stays
from p2pserver.node.airtime import AirtimeKeeper
from p2pserver.node.crowd import Crowd
from p2pserver.node.ephemera import Ephemera, connected_topic
from p2pserver.node.epochs import Epochs
from p2pserver.node.exchange import Exchange, S2sHandler, error_of
from p2pserver.node.former_rooms import FormerRooms
from p2pserver.node.gossip import Gossip
from p2pserver.node.healing import Healer
from p2pserver.node.identity import Identity
from p2pserver.node.media import Media
from p2pserver.node.media_serving import MediaServing
from p2pserver.node.peer_events import PeerConnected, PeerEvent, PeerLost, PeerRefused
from p2pserver.node.peer_notes import PeerNotes, watch_outbox
from p2pserver.node.pipes import Pipe, places_of
from p2pserver.node.runs import Runs
from p2pserver.node.session import Progress, Session
from p2pserver.node.shared_medium import SharedMedium
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.service import Rooms
from p2pserver.store.database import Database
from p2pserver.store.peers import all_peers_lost, blocked_keys, peer_lost, peer_names
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import SALT_OCTETS, decode_json_object
from transports.contract import INSTANCE_ID_OCTETS, Link, LinkDown, Transport, TransportStatus

log = logging.getLogger(__name__)

SESSIONS_KEPT_MAX = 64
"""Peers without a pipe whose conversation is kept for when they come back."""
SESSION_KEPT_S = 600.0
PENALTY_S = 60.0
DUPLICATE_CLOSED_AFTER_S = 1.0
"""The other side may still be about to move the conversation to the pipe that stays."""
GOODBYE_S = 0.3


class Mesh:
    """The node's side of every link. `start`, then `stop` (says goodbye) or `abort` (as a power cut would)."""

    def __init__(
        self,
        *,
        identity: Identity,
        database: Database,
        rooms: Rooms,
        handlers: Mapping[str, S2sHandler],
        transports: Sequence[Transport],
        wall_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        rng: random.Random,
        random_bytes: Callable[[int], bytes],
        neighbor_clock: Callable[[str, int], None],
        tell: Callable[[PeerEvent], None],
        limits: PeeringLimits | None = None,
        timers: NodeTimers | None = None,
        media: MediaServing,
        airtime: AirtimeKeeper,
    ) -> None:
        """`neighbor_clock(server_name, clock_ms)` hears of the clocks of peers, `tell` of who comes and goes."""
        self._identity = identity
        self._database = database
        self._transports = transports
        self._wall_ms = wall_ms
        self._clock = monotonic_s
        self._rng = rng
        self._random_bytes = random_bytes
        self._neighbor_clock = neighbor_clock
        self._tell = tell
        self._limits, self._timers = limits, timers or NodeTimers()
        self._epochs = Epochs(random_bytes)
        own_key = identity.signer.verify_key
        self._neighbors = Neighbors(own_key)
        self._pipes: dict[Pipe, asyncio.Task[None]] = {}
        self._sessions: dict[bytes, Session] = {}
        self._session_tasks: dict[Session, list[asyncio.Task[None]]] = {}
        self._crowd = Crowd(sessions=self._sessions, pipes=self._pipes, end=self._end_session)
        self._by_name: dict[str, Session] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._airtime = airtime
        self._epochs_heard = RunsHeard()
        self._runs = Runs(
            identity=identity,
            database=database,
            drawn=self._epochs.current.to_bytes(8, "big"),
            wall_ms=wall_ms,
            tell=tell,
            begun_anew=self._ask_all_for_rooms,
        )
        self._former = FormerRooms(
            database=database,
            mesh=self,
            rooms=rooms,
            wall_ms=wall_ms,
            tell=tell,
            look_s=self._timers.blocks_s,
        )
        self._media = Media(
            own_key=own_key,
            database=database,
            neighborhood=self,
            clock=monotonic_s,
            rng=rng,
            salt=self._runs.salt,
            airtime=airtime,
        )
        self._notes = PeerNotes(database, wall_ms=wall_ms, spawn=self.spawn, is_kept=self._keeps)
        self._ephemera: Ephemera | None = None
        self._gossip = Gossip(sessions=self._by_name, clock=monotonic_s, medium_of=self._medium)
        self._stopping = False
        healer = Healer(
            database=database,
            rooms=rooms,
            rng=rng,
            clock=monotonic_s,
            spawn=self.spawn,
            slowest_bit_rate=self._slowest_bit_rate,
            times=self._timers.healing,
        )
        self.exchange = Exchange(
            database=database,
            rooms=rooms,
            handlers=handlers,
            mesh=self,
            gossip=self._gossip,
            clock=monotonic_s,
            wall_ms=wall_ms,
            healer=healer,
            media=media,
        )

    # Life

    async def start(self) -> None:
        """Raises: OSError, if a transport cannot have what the operator asked for."""
        await self._database.write(all_peers_lost)
        await self._runs.begin()
        for key, name in await self._database.read(peer_names):
            self._neighbors.remember_name(key, name)
        self._neighbors.block_only(await self._database.read(blocked_keys))
        instance_id = self._random_bytes(INSTANCE_ID_OCTETS)
        await self._airtime.recall()
        for transport in self._transports:
            await transport.start(instance_id)
            await self._share(transport)
            self.spawn(self._accept(transport), name=f"accept {transport.kind}")
        self.spawn(self._watch_blocks(), name="blocks")
        self.spawn(self._media.watch_networks(self._timers.blocks_s), name="networks")
        self.spawn(self._watch_seen(), name="seen")
        self.spawn(self._airtime.run(), name="airtime")
        self.spawn(self._former.run(), name="former rooms")

    async def _share(self, transport: Transport) -> None:
        """Hears and speaks on the transport's medium, if it has one."""
        medium = await self._media.open(transport)
        if medium is not None:
            self.spawn(medium.run(), name=f"medium {transport.kind}")

    async def stop(self) -> None:
        """Says goodbye to everybody; nothing of this object runs afterwards."""
        self._stopping = True
        for pipe in self._pipes:
            pipe.close("the node stops")
        pipe_tasks = list(self._pipes.values())
        if pipe_tasks:
            await asyncio.wait(pipe_tasks, timeout=GOODBYE_S)
        await self.abort()
        for transport in self._transports:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await transport.close()
        await self._airtime.save(is_whole=True)
        await self._database.write(self._runs.write)
        await self._database.write(all_peers_lost)

    async def abort(self) -> None:
        """Ends everything where it stands."""
        self._stopping = True
        tasks = [*self._tasks, *self._pipes.values()]
        tasks += [task for tasks_of_one in self._session_tasks.values() for task in tasks_of_one]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in self._sessions.values():
            session.fail_questions()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Runs `work` beside everything else until the node stops."""
        if self._stopping:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the mesh failed", exc_info=error, extra={"task": task.get_name()})

    def status(self) -> list[TransportStatus]:
        """What the transports say, what has to wait for airtime, and what is heard of other keys."""
        told = []
        for transport in self._transports:
            status, notes = transport.status(), self._media.notes(transport)
            told.append(replace(status, notes=(*status.notes, *notes)) if notes else status)
        return told

    def _slowest_bit_rate(self) -> int | None:
        """Of the links that are in use; None, if none of them tells."""
        active = [session.active for session in self._by_name.values() if session.active is not None]
        return min((rate for pipe in active if (rate := pipe.link.profile.bit_rate) is not None), default=None)

    # RemoteServers

    def connected(self) -> list[str]:
        """Names of the servers with an authenticated conversation at this moment."""
        return [name for name, session in self._by_name.items() if session.peering.talking]

    def session_named(self, server: str) -> Session | None:
        """The conversation with a server that can be asked now."""
        session = self._by_name.get(server)
        return session if session is not None and session.peering.talking else None

    async def ask(
        self, server: str, name: str, body: dict[str, Any], *, timeout_s: float, progress: Progress | None = None
    ) -> dict[str, Any]:
        """The answer of a server to one of the questions of `p2pserver.rooms.s2s`.

        Raises: PeerUnreachable, at once when the server is not connected, or at the timeout; whatever MatrixError the
        other side raised.
        """
        session = self.session_named(server)
        if session is None:
            raise PeerUnreachable(f"{server} cannot be reached now")
        ok, text = await session.ask(name, body, timeout_s=timeout_s, progress=progress)
        try:
            answer = decode_json_object(text)
        except WireError as error:
            raise PeerUnreachable(f"{server} answered with nonsense: {error}") from None
        if not ok:
            raise error_of(answer)
        return answer

    # Links and pipes

    async def _accept(self, transport: Transport) -> None:
        with suppress(LinkDown):
            while True:
                await self._take(await transport.next_link(), transport)

    async def _take(self, link: Link, transport: Transport) -> None:
        if self._stopping or not self._crowd.admits_another():
            await link.close()
            return
        known_key = self._expected(link)
        session = self._sessions.get(known_key) if known_key is not None else None
        same_life = session is not None and session.conversation.local_epoch == self._epochs.current
        endpoint = LinkEndpoint(
            self._identity.seed,
            link.initiator,
            datagram_octets(link.profile),
            self._random_bytes,
            self._clock(),
            lambda key: self._neighbors.may_talk(key, self._clock()),
            local_epoch=self._epochs.current,
            timers=self._timers.link or timers_for(link.profile),
            pacer=pacer_for(link.profile, self._media.line_of(transport, link.profile)),
            known_key=known_key,
            early=session.conversation if session is not None and same_life else None,
        )
        pipe = Pipe(link, endpoint, self, clock=self._clock, transport=self._transports.index(transport))
        self._pipes[pipe] = asyncio.create_task(self._run_pipe(pipe), name=f"pipe {link.remote}")

    def _expected(self, link: Link) -> bytes | None:
        """The key that was proved last where this link leads to, if we dialed and may talk to it."""
        if not link.initiator:
            return None
        key = self._neighbors.expected_at(link.profile.kind, places_of(link))
        return key if key is not None and self._neighbors.may_talk(key, self._clock()) else None

    async def _run_pipe(self, pipe: Pipe) -> None:
        try:
            await pipe.run()
        except Exception:
            # One pipe, whatever goes wrong on it, must not take the others with it.
            log.exception("a pipe failed", extra={"link": pipe.link.remote})
        finally:
            self._pipes.pop(pipe, None)

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        """The other side proved its key: its conversation goes over this pipe, too; of one transport one pipe stays."""
        self._neighbors.met_at(peer_key, pipe.link.profile.kind, places_of(pipe.link))
        session = self._sessions.get(peer_key)
        if self._epochs_heard.is_back(peer_key, epoch.to_bytes(8, "big")):
            self._begin_again(pipe, session)
            return
        if session is not None and (
            session.epoch != epoch or session.conversation.local_epoch != pipe.endpoint.local_epoch
        ):
            self._end_session(session, "the node started again", peer_restarted=session.epoch != epoch)
            session = None
        if session is None and self._epochs.was_given_up(peer_key, pipe.endpoint.local_epoch):
            pipe.close("that conversation is over")  # the peer remembers it; the next link begins another
            return
        if session is None:
            session = self._new_session(peer_key, epoch, pipe.endpoint.local_epoch)
        facts = PipeFacts(transport=pipe.transport, initiated_here=pipe.initiator, since=self._clock())
        session.add_pipe(pipe, facts)
        for other, other_facts in session.pipes.all():
            if other is not pipe and other_facts.transport == facts.transport:
                newer = newer_stays(self._neighbors.own_key, peer_key, old=other_facts, new=facts)
                surplus = other if newer else pipe
                session.retire_pipe(surplus)
                self._close_later(surplus)
        if session.server_name is not None:
            self._connected(session, session.server_name)
        self._pipes_changed(session)

    def _begin_again(self, pipe: Pipe, session: Session | None) -> None:
        """A process of the peer is back after another one, which only two nodes with one key do. It goes on with a
        conversation of which nothing is left here, so for its next link we are another process too."""
        reason = "that conversation is over"
        if session is not None:
            self._end_session(session, reason)
        else:
            self._epochs.leave(pipe.endpoint.local_epoch)
        pipe.close(reason)

    def pipe_active(self, pipe: Pipe) -> None:
        session = self._sessions.get(pipe.peer_key) if pipe.peer_key is not None else None
        if session is not None:
            session.pipe_active(pipe)

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        session = self._sessions.get(pipe.peer_key) if pipe.peer_key is not None else None
        if session is not None and pipe in session.pipes:
            session.choose_pipes()

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        if pipe.peer_key is None:
            log.info("link over", extra={"link": pipe.link.remote, "reason": reason})
            met_epoch = pipe.endpoint.own_key_epoch
            if met_epoch is not None and not self._epochs.is_own(met_epoch):
                self.spawn(self._runs.own_key_met(pipe.link.remote), name="own key met")
            return
        session = self._sessions.get(pipe.peer_key)
        if session is None or pipe not in session.pipes:
            return
        was_active = session.active is pipe
        session.remove_pipe(pipe)
        if session.active is None and was_active:
            self._lost(session, reason)
        self._pipes_changed(session)
        self._prune()

    def _close_later(self, pipe: Pipe) -> None:
        self.spawn(self._close_duplicate(pipe), name="close duplicate")

    async def _close_duplicate(self, pipe: Pipe) -> None:
        await asyncio.sleep(DUPLICATE_CLOSED_AFTER_S)
        pipe.close("there is another link")

    # Sessions

    def _new_session(self, key: bytes, epoch: int, local_epoch: int) -> Session:
        peering = Peering(
            our_name=self._identity.server_name,
            their_key=key,
            known_name=self._neighbors.name_of(key),
            agent=f"p2pserver {__version__}",
            salt=self._random_bytes(SALT_OCTETS),
            rng=self._rng,
            now=self._clock(),
            limits=self._limits,
            timers=self._timers.peering,
            mark=self._runs.maker(key),
            kept=self._runs.kept(key),
        )
        session = Session(
            key=key,
            epoch=epoch,
            conversation=Conversation(local_epoch, self._crowd.memory.holding()),
            peering=peering,
            execute=self.exchange.execute,
            clock=self._clock,
            wall_ms=self._wall_ms,
            chosen_anew=self._pipes_changed,
        )
        self._sessions[key] = session
        name = key.hex()[:8]
        self._session_tasks[session] = [asyncio.create_task(self._run_session(session), name=f"session {name}")]
        return session

    async def _run_session(self, session: Session) -> None:
        try:
            await session.run()
        except PeerCut:
            return
        except Exception:
            # A mistake of ours, or a full disk: this conversation starts anew later, the others go on.
            log.exception("a conversation failed", extra={"peer": session.server_name})
            self._neighbors.punish(session.key, self._clock() + PENALTY_S)
            self._end_session(session, "an error here")

    def _end_session(self, session: Session, reason: str, *, peer_restarted: bool = False) -> None:
        """Forgets a conversation and closes its pipes."""
        if self._sessions.get(session.key) is not session:
            return
        del self._sessions[session.key]
        if not peer_restarted:
            self._epochs.gave_up(session.key, session.conversation.local_epoch)
        session.conversation.holding.end()
        session.peering.lost()
        for pipe in session.pipes.clear():
            pipe.close(reason)
        session.active = None
        self._lost(session, reason)
        session.fail_questions()
        current = asyncio.current_task()
        for task in self._session_tasks.pop(session, []):
            if task is not current:
                task.cancel()

    def _lost(self, session: Session, reason: str) -> None:
        name = session.server_name
        if name is None or self._by_name.get(name) is not session:
            return
        del self._by_name[name]
        if self._ephemera is not None:
            self._ephemera.lost(name)
        session.links_noted = []
        if not self._stopping:
            self._tell(PeerLost(name, reason))
        self.spawn(self._note_lost(session.key), name="note lost")

    async def _note_lost(self, key: bytes) -> None:
        now_ms = self._wall_ms()
        await self._database.write(self._runs.write)
        await self._database.write(lambda tx: peer_lost(tx, key, now_ms=now_ms))

    def _prune(self) -> None:
        """Forgets conversations with peers that have been away for long."""
        idle = sorted(
            (session for session in self._sessions.values() if session.active is None),
            key=lambda session: (not session.is_stranger, session.idle_since),
        )
        too_old = self._clock() - SESSION_KEPT_S
        surplus = len(idle) - SESSIONS_KEPT_MAX
        for number, session in enumerate(idle):
            if number < surplus or session.idle_since < too_old:
                self._end_session(session, "away for long")

    # What peerings ask of the mesh

    def greeted(self, session: Session, effect: fx.Greeted) -> None:
        name = effect.server_name
        session.agent = effect.agent
        self._neighbors.remember_name(session.key, name)
        self._neighbor_clock(name, effect.clock_ms)
        self._connected(session, name)
        watcher = asyncio.create_task(watch_outbox(self._database, session, name), name=f"outbox {name[:8]}")
        self._session_tasks[session].append(watcher)
        if self._ephemera is not None:
            telling = asyncio.create_task(self._ephemera.tell(session, name), name=f"ephemera {name[:8]}")
            self._session_tasks[session].append(telling)
        self._pipes_changed(session)
        self.spawn(self._look_at_marks(session, name, effect), name=f"marks {name[:8]}")

    # What peers remember of us

    async def _look_at_marks(self, session: Session, name: str, effect: fx.Greeted) -> None:
        await self._notes.connected(session, name)
        is_to_be_asked = await self._runs.greeted(session.key, name, effect.mark, effect.kept)
        await self._database.write(self._runs.write)
        if is_to_be_asked:
            await self._former.ask(name, session.key)

    def peer_marked(self, session: Session, effect: fx.PeerMarked) -> None:
        self._runs.keep(session.key, effect.mark)

    def _ask_all_for_rooms(self) -> None:
        """This node has gone on anew: those who are connected know what it does not."""
        for name, session in self._by_name.items():
            self.spawn(self._former.ask(name, session.key), name=f"former rooms {name[:8]}")

    # Shared media

    def _medium(self, session: Session) -> SharedMedium | None:
        """The medium over which the peer is talked to now."""
        pipe = session.active
        return None if pipe is None else self._media.of(self._transports[pipe.transport])

    def _pipes_changed(self, session: Session) -> None:
        self._notes.links_soon(session)
        self._media.session_changed(session, self._medium(session))

    def _keeps(self, session: Session) -> bool:
        return self._sessions.get(session.key) is session

    def session_of(self, key: bytes) -> Session | None:
        return self._sessions.get(key)

    def sessions_on(self, medium: SharedMedium) -> list[Session]:
        return [session for session in self._by_name.values() if self._medium(session) is medium]

    def broadcast(self, session: Session, effect: fx.Broadcast) -> None:
        """Once for all on the medium, or not at all."""
        medium = self._medium(session)
        if medium is None:
            session.peering.broadcast_declined(effect.event_id, self._clock())
        else:
            medium.request(session, effect)

    def peer_hears(self, session: Session, effect: fx.PeerHears) -> None:
        medium = self._medium(session)
        if medium is not None:
            medium.peer_hears(session, effect)

    # What lives for seconds

    def attend(self, ephemera: Ephemera) -> None:
        """From the next contact on, tells and hears who types, who is present, how far users have read."""
        self._ephemera = ephemera

    async def heard_ephemera(self, session: Session, effect: fx.HeardEphemera) -> None:
        if self._ephemera is not None and session.server_name is not None:
            await self._ephemera.hear(session.server_name, effect.edus)

    @property
    def run(self) -> bytes:
        """The random number of this start, as the database knows it."""
        return self._runs.run

    @property
    def network(self) -> NetworkKey | None:
        """What is broadcast under, on whatever medium; None, if no transport has one."""
        return self._media.network

    # What people are told

    def _connected(self, session: Session, name: str) -> None:
        if self._by_name.get(name) is not session:
            self._by_name[name] = session
            self._database.wake([connected_topic(name)])
            self._tell(PeerConnected(name, session.last_link, session.agent))
            self.spawn(self._notes.connected(session, name), name="note connected")
            self._notes.links_soon(session)

    def leave(self, session: Session, reason: str) -> None:
        log.warning("peer refused", extra={"peer": session.server_name or session.key.hex(), "reason": reason})
        self._neighbors.punish(session.key, self._clock() + PENALTY_S)
        self._tell(PeerRefused(session.server_name or session.key.hex(), reason))
        self.spawn(self._leave_soon(session, reason), name="leave")

    async def _leave_soon(self, session: Session, reason: str) -> None:
        self._end_session(session, reason)

    # Watching the database

    async def _watch_blocks(self) -> None:
        while True:
            await asyncio.sleep(self._timers.blocks_s)
            for key in sorted(self._neighbors.block_only(await self._database.read(blocked_keys))):
                session = self._sessions.get(key)
                if session is not None:
                    self._end_session(session, "blocked")

    async def _watch_seen(self) -> None:
        while True:
            await asyncio.sleep(self._timers.seen_s)
            keys = sorted(session.key for session in self._by_name.values() if session.active is not None)
            if keys:
                await self._notes.seen(keys)
                await self._database.write(self._runs.write)
            self._prune()
