"""Fetches other nodes' media: from whichever neighbor has them, in checked chunks, over restarts and lost links.

    a client asks ─► row in media_transfers ─► a task: who in reach has it? ─► its manifest, signed by the origin
         │                                      └ is it worth the link? ─► chunks, each checked ─► file and row
         └ waits for it, up to its timeout; the task goes on

The rows are what must survive; what was fetched survives as well, in a file whose chunks are checked again at the
start. See docs/media.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from p2pserver.client_api.join_progress import Meter
from p2pserver.errors import MatrixError, NotFound, NotYetUploaded, PeerUnreachable, RemoteTooLarge
from p2pserver.events.signing import KeyLookup
from p2pserver.events.unpadded_base64 import decode_base64
from p2pserver.federation.media_assembly import Assembly, LinkRate, MediaPolicy, Span
from p2pserver.federation.media_manifest import BadManifest, Manifest, check_manifest
from p2pserver.federation.media_parts import part_octets_on
from p2pserver.identifiers import KEY_ID
from p2pserver.node.peer_events import MediaUnderWay, PeerEvent
from p2pserver.node.session import Session
from p2pserver.rooms.media_library import MediaLibrary
from p2pserver.rooms.remote_media import MediaProgress
from p2pserver.store.database import Database
from p2pserver.store.media import chunks_of, media
from p2pserver.store.media_transfers import (
    HELD_BACK,
    HOPS,
    LOOKING,
    TOPIC,
    UNDER_WAY,
    TransferRow,
    drop_transfer,
    drop_transfers_before,
    list_transfers,
    note_chunks,
    note_manifest,
    note_state,
    part_name,
    transfer,
    want_media,
)
from p2pserver.store.tx import Tx
from p2pserver.wire.messages import TICKET_OCTETS_MAX

log = logging.getLogger(__name__)

TASKS_MAX = 64
AT_ONCE = 4
"""Files that are fetched at a time over a fast link; over a slow one it is one."""
SERVERS_ASKED_MAX = 8
"""Who has a file: so many are asked before it is looked at who has answered."""
SOURCES_MAX = 3
SLOW_BIT_RATE = 256_000
ROWS_LOOK_S = 10.0
"""How often the rows are looked at: another process may have asked for something."""
LOOK_S = 2.0
"""How often it is looked who is in reach, while something is wanted."""
SOON_S, LATER_S = 3.0, 30.0
"""When a server is asked again that looks for the file itself, and one that does not have it."""
SLOW_TIMES = 20
"""Over a slow link these times are so much longer."""
ANSWER_S = 60.0
METERED_ANSWER_S = 3_700.0
"""How long a part may take: where airtime is metered, an hour may pass before there is some."""
QUESTION_S = 10.0
DISTRUST_S = 600.0
"""So long nothing is asked of a server that sent something forged."""
FAILURE_S = 60.0
REMEMBERED_MAX = 512
REQUESTED_MS_MAX = 24 * 3600 * 1000
ASKED_MS_MAX = 7 * REQUESTED_MS_MAX
RELAYED_MS_MAX = 10 * 60 * 1000


class Neighborhood(Protocol):
    """The conversations of the node."""

    def connected(self) -> list[str]: ...

    def session_named(self, server: str) -> Session | None: ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None: ...

    async def ask(self, server: str, name: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]: ...


@dataclass(slots=True, eq=False)
class _Transfer:
    """One file that is wanted. What the row does not say is found again after a restart."""

    row: TransferRow
    manifest: Manifest | None = None
    text: str = ""
    """The JSON text of the manifest."""
    assembly: Assembly | None = None
    chunks: bytes = b""
    tickets: dict[str, bytes] = field(default_factory=dict)
    """Who has it, as he says."""
    ask_at: dict[str, float] = field(default_factory=dict)
    """By server, when it may be asked whether it has the file."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = LOOKING
    seconds_left: int | None = None
    meter: Meter | None = None
    told_held_back: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.row.origin, self.row.media_id


class MediaTransfers:
    """The `RemoteMedia` of a node. Runs until the node stops."""

    def __init__(
        self,
        *,
        database: Database,
        library: MediaLibrary,
        mesh: Neighborhood,
        keys: KeyLookup,
        policy: MediaPolicy,
        wall_ms: Callable[[], int],
        clock: Callable[[], float],
        tell: Callable[[PeerEvent], None],
    ) -> None:
        self._database = database
        self._library = library
        self._mesh = mesh
        self._keys = keys
        self._policy = policy
        self._wall_ms = wall_ms
        self._clock = clock
        self._tell = tell
        self._active: dict[tuple[str, str], _Transfer] = {}
        self._waiting: dict[tuple[str, str], list[asyncio.Future[None]]] = {}
        self._failures: OrderedDict[tuple[str, str], tuple[float, MatrixError]] = OrderedDict()
        self._distrusted: OrderedDict[str, float] = OrderedDict()
        self._turns: OrderedDict[str, asyncio.Semaphore] = OrderedDict()

    # RemoteMedia

    async def fetch(self, origin: str, media_id: str, *, timeout_s: float) -> None:
        key = (origin, media_id)
        self._check(key)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(arrived)
        try:
            if not await self._want(key, asked=False):
                return
            async with asyncio.timeout(max(0.0, timeout_s)):
                await arrived
        except TimeoutError:
            raise NotYetUploaded(self._excuse(key)) from None
        finally:
            self._waiting[key].remove(arrived)
            if not self._waiting[key]:
                del self._waiting[key]

    async def ask_for(self, origin: str, media_id: str) -> None:
        key = (origin, media_id)
        self._check(key)
        await self._want(key, asked=True)

    async def progress(self, origin: str, media_id: str) -> MediaProgress | None:
        under_way = self._active.get((origin, media_id))
        if under_way is not None and under_way.assembly is not None:
            return MediaProgress(
                state=under_way.state,
                octets=under_way.assembly.octets_held,
                size=under_way.assembly.manifest.size,
                seconds_left=under_way.seconds_left,
                source=next(iter(under_way.tickets), None),
            )
        row = await self._database.read(lambda tx: transfer(tx, origin, media_id))
        if row is None:
            return None
        return MediaProgress(
            state=row.state if under_way is None else under_way.state,
            octets=row.octets,
            size=row.size,
            seconds_left=row.seconds_left if under_way is None else under_way.seconds_left,
            source=row.source,
        )

    async def give_up(self, origin: str, media_id: str) -> bool:
        return await self._database.write(lambda tx: drop_transfer(tx, origin, media_id))

    def _check(self, key: tuple[str, str]) -> None:
        """Raises: NotFound; what the last attempt came to, if that was just now."""
        if self._keys.verify_key(key[0], KEY_ID, None) is None:
            raise NotFound("only media of nodes whose name is their key can be fetched")
        until, error = self._failures.get(key, (0.0, None))
        if error is not None and self._clock() < until:
            raise error

    async def _want(self, key: tuple[str, str], *, asked: bool) -> bool:
        """False, if it is here already."""

        def unit(tx: Tx) -> bool:
            held = media(tx, *key)
            if held is not None and held.sha256 is not None:
                return False
            want_media(tx, origin=key[0], media_id=key[1], now_ms=self._wall_ms(), hops=HOPS, asked=asked)
            return True

        return await self._database.write(unit)

    def _excuse(self, key: tuple[str, str]) -> str:
        under_way = self._active.get(key)
        if under_way is None or under_way.manifest is None:
            if under_way is not None and under_way.state == HELD_BACK:
                return (
                    "even asking for it takes long over the link that there is: that is done if somebody asks by name"
                )
            return "nobody in reach has it now; it comes when somebody has"
        size = under_way.manifest.size
        if under_way.state == HELD_BACK:
            return (
                f"{size} octets would take about {under_way.seconds_left} s over the link that there is: "
                "it is fetched if somebody asks for it by name"
            )
        held = 0 if under_way.assembly is None else under_way.assembly.octets_held
        return f"{held} of {size} octets are here; the rest is coming"

    def _settle(self, key: tuple[str, str], error: MatrixError | None = None) -> None:
        if error is not None:
            _remember(self._failures, key, (self._clock() + FAILURE_S, error))
        for arrived in self._waiting.get(key, ()):
            if arrived.done():
                continue
            if error is None:
                arrived.set_result(None)
            else:
                arrived.set_exception(error)

    # The rows

    async def run(self) -> None:
        """Keeps a task for each row, for ever."""
        while True:
            position = self._database.position
            rows = await self._database.read(list_transfers)
            wanted = {(row.origin, row.media_id): row for row in rows}
            for key, under_way in self._active.items():
                row = wanted.get(key)
                if row is not None and row != under_way.row:
                    under_way.row = row
                    under_way.changed.set()
                elif row is None:
                    under_way.changed.set()
            for key, row in wanted.items():
                if key not in self._active and len(self._active) < TASKS_MAX:
                    self._active[key] = started = _Transfer(row)
                    self._mesh.spawn(self._see_to(started), name="fetch media")
            if rows:
                await self._drop_old(rows)
            await self._database.wait([TOPIC], after=position, timeout_s=ROWS_LOOK_S)

    async def _drop_old(self, rows: list[TransferRow]) -> None:
        now_ms = self._wall_ms()
        oldest = min(row.requested_ms for row in rows)
        if now_ms - oldest > RELAYED_MS_MAX:
            await self._database.write(
                lambda tx: drop_transfers_before(
                    tx,
                    requested_ms=now_ms - REQUESTED_MS_MAX,
                    asked_ms=now_ms - ASKED_MS_MAX,
                    relayed_ms=now_ms - RELAYED_MS_MAX,
                )
            )

    # One file

    async def _see_to(self, under_way: _Transfer) -> None:
        origin, media_id = under_way.key
        try:
            while await self._database.read(lambda tx: transfer(tx, origin, media_id)) is not None:
                under_way.changed.clear()
                try:
                    if await self._attempt(under_way):
                        self._settle(under_way.key)
                        return
                except OSError:
                    log.exception("media cannot be stored", extra={"media": under_way.row.uri})
                    under_way.assembly = None
                    await asyncio.sleep(LATER_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await under_way.changed.wait()
            self._remove_part(under_way)
        except (NotFound, RemoteTooLarge) as error:
            await self._database.write(lambda tx: drop_transfer(tx, origin, media_id))
            self._remove_part(under_way)
            self._settle(under_way.key, error)
        finally:
            self._active.pop(under_way.key, None)
            self._database.wake([TOPIC])

    def _part(self, under_way: _Transfer) -> Path:
        return self._library.files.part_path(part_name(*under_way.key))

    def _remove_part(self, under_way: _Transfer) -> None:
        with suppress(OSError):
            self._part(under_way).unlink(missing_ok=True)

    async def _attempt(self, under_way: _Transfer) -> bool:
        """One look at who is in reach, and as much of the file as they have. Whether it is here.

        Raises: NotFound, RemoteTooLarge, when it is of no use to go on; OSError.
        """
        if not under_way.tickets:
            under_way.state = LOOKING
        await self._find(under_way)
        manifest = under_way.manifest
        sources = self._reachable(under_way)
        if manifest is None or not sources:
            return False
        held = await self._database.read(lambda tx: chunks_of(tx, manifest.sha256))
        if held is not None:
            await self._library.take_copy(manifest, under_way.text, held, None)
            return True
        if not self._is_worth_it(under_way, manifest, sources):
            return False
        if under_way.assembly is None and not await self._begin(under_way, manifest, sources):
            return False
        assembly = under_way.assembly
        assert assembly is not None
        if not assembly.is_whole:
            under_way.state = UNDER_WAY
            under_way.meter = Meter(self._clock())
            await _all(self._pull_from(under_way, assembly, server) for server in sources)
            await self._note(under_way)
        return assembly.is_whole and await self._finish(under_way, assembly)

    # Who has it

    def _rate(self, server: str) -> LinkRate | None:
        """Of the link to a server; None, if it cannot be asked now."""
        session = self._mesh.session_named(server)
        profile = None if session is None else session.media_profile
        if profile is None:
            return None
        return LinkRate(bit_rate=profile.bit_rate, airtime_ms_per_hour=profile.airtime_ms_per_hour)

    def _reachable(self, under_way: _Transfer) -> list[str]:
        """Who has it and can be asked now, those over the fastest links first."""
        rates = {server: self._rate(server) for server in under_way.tickets if self._is_trusted(server)}
        found = [(rate.seconds_for(1_000_000), server) for server, rate in rates.items() if rate is not None]
        return [server for _, server in sorted(found)][:SOURCES_MAX]

    async def _find(self, under_way: _Transfer) -> None:
        """Asks those who may be asked now, the origin first, then those over fast links, until somebody has it."""
        origin, now = under_way.row.origin, self._clock()
        connected = self._mesh.connected()
        for known in (under_way.ask_at, under_way.tickets):
            for server in [server for server in known if server not in connected]:
                del known[server]
        asked = 0
        rates = [(server, rate) for server in connected if (rate := self._rate(server)) is not None]
        for server, rate in sorted(rates, key=lambda each: (each[0] != origin, each[1].seconds_for(1_000_000))):
            if asked >= SERVERS_ASKED_MAX or self._has_enough(under_way, rate):
                break
            if server in under_way.tickets or not self._is_trusted(server) or under_way.ask_at.get(server, 0.0) > now:
                continue
            if not under_way.row.asked and not self._policy.may_ask(rate):
                under_way.state = HELD_BACK
                continue
            asked += 1
            async with self._turn(server, rate):
                await self._ask(under_way, server, rate)

    def _has_enough(self, under_way: _Transfer, next_rate: LinkRate) -> bool:
        """Whether a source is known that is as good as any that could still be asked."""
        known = [rate for server in self._reachable(under_way) if (rate := self._rate(server)) is not None]
        return any(rate.seconds_for(1_000_000) <= next_rate.seconds_for(1_000_000) for rate in known)

    async def _ask(self, under_way: _Transfer, server: str, rate: LinkRate) -> None:
        origin, media_id = under_way.key
        times = SLOW_TIMES if _is_slow(rate) else 1
        under_way.ask_at[server] = self._clock() + LATER_S * times
        body = {"origin": origin, "media_id": media_id, "hops": under_way.row.hops}
        try:
            answer = await self._mesh.ask(server, "media", body, timeout_s=QUESTION_S)
        except NotYetUploaded:
            under_way.ask_at[server] = self._clock() + SOON_S * times
            return
        except NotFound:
            if server == origin:
                raise NotFound("its origin has no such media") from None
            return
        except MatrixError:
            return
        if answer.get("looking") is True:
            under_way.ask_at[server] = self._clock() + SOON_S * times
            return
        try:
            await self._take_manifest(under_way, answer)
            ticket = _base64_of(answer, "ticket")
            if not 0 < len(ticket) <= TICKET_OCTETS_MAX:
                raise BadManifest("there is no ticket with it")
        except ValueError as error:
            self._distrust(server, f"its manifest: {error}")
            return
        under_way.tickets[server] = ticket

    async def _take_manifest(self, under_way: _Transfer, answer: dict[str, Any]) -> None:
        """The first that is right counts; another one of the same origin is as good as a forged one.

        Raises: BadManifest; RemoteTooLarge.
        """
        origin, media_id = under_way.key
        raw = answer.get("manifest")
        if not isinstance(raw, dict):
            raise BadManifest("there is none")
        manifest = check_manifest(raw, self._keys, origin=origin, media_id=media_id)
        await self._recall_manifest(under_way)
        if under_way.manifest is not None and under_way.manifest != manifest:
            raise BadManifest("it is another one than before")
        limits = self._library.limits
        if manifest.size > min(limits.upload_octets, limits.cache_octets):
            raise RemoteTooLarge(f"a file of {manifest.size} octets is not fetched here")
        if under_way.manifest is None:
            under_way.manifest = manifest
            under_way.text = text = json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
            await self._database.write(
                lambda tx: note_manifest(tx, origin, media_id, manifest=text, size=manifest.size)
            )

    async def _recall_manifest(self, under_way: _Transfer) -> None:
        """What an earlier run of the node was told."""
        if under_way.manifest is None and under_way.row.manifest is not None:
            raw = json.loads(under_way.row.manifest)
            origin, media_id = under_way.key
            under_way.manifest = check_manifest(raw, self._keys, origin=origin, media_id=media_id)
            under_way.text = under_way.row.manifest

    def _is_worth_it(self, under_way: _Transfer, manifest: Manifest, sources: list[str]) -> bool:
        """Whether somebody asked for it, or it costs the best of the links little."""
        rates = [rate for server in sources if (rate := self._rate(server)) is not None]
        if not rates:
            return False
        if under_way.row.asked or self._policy.allows(manifest.size, manifest.content_type, rates[0]):
            return True
        under_way.state = HELD_BACK
        under_way.seconds_left = int(rates[0].seconds_for(manifest.size))
        if not under_way.told_held_back:
            under_way.told_held_back = True
            self._mesh.spawn(self._note(under_way), name="note media")
            self._tell_people(under_way, manifest, sources[0], octets=0)
        return False

    # Its octets

    async def _hashes(self, under_way: _Transfer, sources: list[str]) -> bytes | None:
        """The hashes of the chunks, from whoever has them right."""
        if under_way.chunks:
            return under_way.chunks
        origin, media_id = under_way.key
        manifest = under_way.manifest
        assert manifest is not None
        for server in sources:
            try:
                answer = await self._mesh.ask(
                    server, "media_chunks", {"origin": origin, "media_id": media_id}, timeout_s=QUESTION_S
                )
                chunks = _base64_of(answer, "chunks")
                Assembly(manifest, chunks)
            except ValueError as error:
                self._distrust(server, f"its hashes: {error}")
            except MatrixError:
                under_way.tickets.pop(server, None)
            else:
                under_way.chunks = chunks
                await self._database.write(partial(note_chunks, origin=origin, media_id=media_id, chunks=chunks))
                return chunks
        return None

    async def _begin(self, under_way: _Transfer, manifest: Manifest, sources: list[str]) -> bool:
        """Makes ready to collect, with what an earlier run of the node left. Raises: OSError."""
        chunks: bytes | None = b""
        if manifest.chunks is not None:
            under_way.chunks = under_way.chunks or under_way.row.chunks or b""
            chunks = await self._hashes(under_way, sources)
        if chunks is None:
            return False
        assembly, path = Assembly(manifest, chunks), self._part(under_way)

        def find() -> None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a+b") as file:
                file.seek(0)
                for number in range(manifest.chunk_count):
                    chunk = file.read(manifest.chunk_octets)
                    if not chunk:
                        break
                    assembly.found(number, chunk)

        await self._library.files.run(find)
        under_way.assembly = assembly
        return True

    async def _pull_from(self, under_way: _Transfer, assembly: Assembly, server: str) -> None:
        """Takes chunks from one server until none are left to ask for, or it does not bring them."""
        rate = self._rate(server)
        if rate is None:
            return
        async with self._turn(server, rate):
            side_by_side = 2 if _is_slow(rate) else AT_ONCE
            await _all(self._pull(under_way, assembly, server, rate) for _ in range(side_by_side))

    def _turn(self, server: str, rate: LinkRate) -> asyncio.Semaphore:
        """Of those that want something of a server over a slow link, one is served at a time."""
        turns = self._turns.get(server) or asyncio.Semaphore(1 if _is_slow(rate) else AT_ONCE)
        _remember(self._turns, server, turns)
        return turns

    async def _pull(self, under_way: _Transfer, assembly: Assembly, server: str, rate: LinkRate) -> None:
        origin, media_id = under_way.key
        part_octets = part_octets_on(rate.bit_rate)
        while server in under_way.tickets and self._is_trusted(server):
            span = assembly.take(part_octets)
            if span is None:
                return
            try:
                data = await self._octets(under_way, server, span, rate)
            except PeerUnreachable:
                under_way.tickets.pop(server, None)
                data = None
            except BaseException:
                assembly.give_back(span)
                raise
            if data is None:
                assembly.give_back(span)
                return
            good, bad = assembly.put(span, data)
            if bad:
                self._distrust(server, "a chunk with another hash")
                under_way.tickets.pop(server, None)
            if good:
                path = self._part(under_way)
                await self._library.files.run(lambda path=path, good=good: _write(path, good))  # type: ignore[misc]
                self._tell_progress(under_way, assembly, server)
            if await self._database.read(lambda tx: transfer(tx, origin, media_id)) is None:
                return

    async def _octets(self, under_way: _Transfer, server: str, span: Span, rate: LinkRate) -> bytes | None:
        """The octets of a span, in as many parts as it takes; None, if the server has them no more.

        Raises: PeerUnreachable.
        """
        timeout_s = METERED_ANSWER_S if rate.airtime_ms_per_hour is not None else ANSWER_S
        part_octets = part_octets_on(rate.bit_rate)
        collected = bytearray()
        while len(collected) < span.octets:
            session = self._mesh.session_named(server)
            ticket = under_way.tickets.get(server)
            if session is None or ticket is None:
                raise PeerUnreachable(f"{server} is away")
            octets = min(part_octets, span.octets - len(collected))
            part = await session.ask_media(ticket, span.start + len(collected), octets, timeout_s=timeout_s)
            if not part:
                under_way.tickets.pop(server, None)
                return None
            collected += part
        return bytes(collected)

    async def _finish(self, under_way: _Transfer, assembly: Assembly) -> bool:
        """Raises: NotFound, if the origin contradicts itself; OSError."""
        path, manifest = self._part(under_way), assembly.manifest
        digest = await self._library.files.run(lambda: _digest_durably(path))
        if digest != manifest.sha256:
            under_way.assembly = None
            raise NotFound("what its origin says of it does not fit together")
        await self._library.take_copy(manifest, under_way.text, under_way.chunks, path)
        if under_way.meter is not None and under_way.meter.has_told:
            under_way.seconds_left = None
            self._tell_people(under_way, manifest, "", octets=manifest.size)
        return True

    # What is remembered and told

    def _is_trusted(self, server: str) -> bool:
        return self._clock() >= self._distrusted.get(server, 0.0)

    def _distrust(self, server: str, why: str) -> None:
        log.warning("a neighbor sent forged media", extra={"peer": server, "reason": why})
        _remember(self._distrusted, server, self._clock() + DISTRUST_S)

    def _tell_progress(self, under_way: _Transfer, assembly: Assembly, server: str) -> None:
        meter, held, size = under_way.meter, assembly.octets_held, assembly.manifest.size
        if meter is None:
            return
        seconds_left = meter.seconds_left(held, size, self._clock())
        under_way.seconds_left = int(seconds_left)
        if meter.is_worth_telling(seconds_left, self._clock()):
            self._tell_people(under_way, assembly.manifest, server, octets=held)
            self._mesh.spawn(self._note(under_way), name="note media")

    def _tell_people(self, under_way: _Transfer, manifest: Manifest, server: str, *, octets: int) -> None:
        """Of what users of this node want; what neighbors want is theirs to tell."""
        if under_way.row.for_server is None:
            self._tell(
                MediaUnderWay(
                    uri=under_way.row.uri,
                    server_name=server,
                    octets=octets,
                    size=manifest.size,
                    seconds_left=under_way.seconds_left,
                    held_back=under_way.state == HELD_BACK,
                )
            )

    async def _note(self, under_way: _Transfer) -> None:
        """Writes down how far it is, for people who ask another process."""
        origin, media_id = under_way.key
        held = 0 if under_way.assembly is None else under_way.assembly.octets_held
        state, seconds_left = under_way.state, under_way.seconds_left
        source = next(iter(under_way.tickets), None)

        def unit(tx: Tx) -> None:
            note_state(tx, origin, media_id, state=state, source=source, octets=held, seconds_left=seconds_left)

        await self._database.write(unit)


def _is_slow(rate: LinkRate) -> bool:
    return rate.bit_rate is not None and rate.bit_rate < SLOW_BIT_RATE


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them side by side to their ends; then raises the first error, if there was one."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _base64_of(answer: dict[str, Any], name: str) -> bytes:
    """Raises: BadManifest."""
    value = answer.get(name)
    try:
        return decode_base64(value if isinstance(value, str) else "?")
    except ValueError:
        raise BadManifest(f"{name} is not base64") from None


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Puts a value; the one that was put longest ago goes, where there are too many."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > REMEMBERED_MAX:
        known.popitem(last=False)


def _write(path: Path, good: list[tuple[int, bytes]]) -> None:
    with path.open("r+b") as file:
        for start, chunk in good:
            file.seek(start)
            file.write(chunk)


def _digest_durably(path: Path) -> bytes:
    """The SHA-256 of a file, which is on the disk then."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").digest()
