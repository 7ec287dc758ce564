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
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from p2pserver.client_api.join_progress import Meter
from p2pserver.errors import (
    CannotOverwriteMedia,
    MatrixError,
    NotFound,
    NotYetUploaded,
    PeerUnreachable,
    RemoteTooLarge,
)
from p2pserver.events.signing import KeyLookup
from p2pserver.federation.media_assembly import Assembly, LinkRate, MediaPolicy, Span
from p2pserver.federation.media_manifest import Manifest
from p2pserver.federation.media_parts import part_octets_on
from p2pserver.identifiers import KEY_ID
from p2pserver.node.media_sources import (
    AT_ONCE,
    LOOK_S,
    MediaSources,
    Neighborhood,
    Transfer,
    is_slow,
    remember,
)
from p2pserver.node.peer_events import MediaUnderWay, PeerEvent
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
    note_state,
    part_name,
    transfer,
    want_media,
)
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

NEAR_BIT_RATE = 2_000_000
"""Below it, thumbnails are fetched instead of whole pictures."""
TASKS_MAX = 600
"""One for each row; most of them wait."""
ANSWER_S = 60.0
METERED_ANSWER_S = 3_700.0
"""How long a part may take: where airtime is metered, an hour may pass before there is some."""
LOOK_AGAIN_S = 0.5
"""How soon a client that waits learns that nobody brings what it waits for."""
FAILURE_S = 60.0
"""So long a failure is told again without another attempt."""
DISK_S = 30.0
NOTED_MS = 60_000
"""How often it is written down that a file is still asked for."""
REQUESTED_MS_MAX = 24 * 3600 * 1000
ASKED_MS_MAX = 7 * REQUESTED_MS_MAX
RELAYED_MS_MAX = 10 * 60 * 1000


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
        look_s: float,
    ) -> None:
        """`look_s`: how often the rows are looked at, for another process may have asked for something."""
        self._look_s = look_s
        self._database = database
        self._library = library
        self._mesh = mesh
        self._keys = keys
        self._policy = policy
        self._wall_ms = wall_ms
        self._clock = clock
        self._tell = tell
        self._active: dict[tuple[str, str], Transfer] = {}
        self._waiting: dict[tuple[str, str], list[asyncio.Future[None]]] = {}
        self._failures: OrderedDict[tuple[str, str], tuple[float, MatrixError]] = OrderedDict()
        self._sources = MediaSources(
            database=database, limits=lambda: library.limits, mesh=mesh, keys=keys, policy=policy, clock=clock
        )

    # RemoteMedia

    async def fetch(self, origin: str, media_id: str, *, timeout_s: float, in_vain_s: float | None = None) -> None:
        key = (origin, media_id)
        self._check(key)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(arrived)
        try:
            if not await self._want(key, asked=False):
                return
            await self._arrival(key, arrived, timeout_s, timeout_s if in_vain_s is None else in_vain_s)
        except TimeoutError:
            raise NotYetUploaded(self._excuse(key)) from None
        finally:
            self._waiting[key].remove(arrived)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _arrival(
        self, key: tuple[str, str], arrived: asyncio.Future[None], timeout_s: float, in_vain_s: float
    ) -> None:
        """Raises: TimeoutError, also where nobody brings it: at once if it is held back, else after a while."""
        loop = asyncio.get_running_loop()
        deadline, patient = loop.time() + timeout_s, loop.time() + in_vain_s
        while not arrived.done():
            under_way = self._active.get(key)
            is_vain = under_way is not None and under_way.rests
            is_held_back = is_vain and under_way is not None and under_way.state == HELD_BACK
            now = loop.time()
            if now >= deadline or is_held_back or (is_vain and now >= patient):
                raise TimeoutError
            await asyncio.wait([arrived], timeout=min(LOOK_AGAIN_S, deadline - now))
        arrived.result()

    def is_far(self, origin: str) -> bool:
        reach = dict(self._sources.reach())
        rates = [reach[origin]] if origin in reach else list(reach.values())
        return bool(rates) and all(rate.bit_rate is not None and rate.bit_rate < NEAR_BIT_RATE for rate in rates)

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
            raise type(error)(error.message)

    async def _want(self, key: tuple[str, str], *, asked: bool) -> bool:
        """False, if it is here already."""

        now_ms = self._wall_ms()

        def look(tx: Tx) -> tuple[bool, bool]:
            held, row = media(tx, *key), transfer(tx, *key)
            is_noted = row is not None and row.for_server is None and now_ms - row.requested_ms < NOTED_MS
            return held is not None and held.sha256 is not None, is_noted and not asked

        def unit(tx: Tx) -> bool:
            is_here, _ = look(tx)
            if not is_here:
                want_media(tx, origin=key[0], media_id=key[1], now_ms=now_ms, hops=HOPS, asked=asked)
            return not is_here

        is_here, is_noted = await self._database.read(look)
        return not is_here and (is_noted or await self._database.write(unit))

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
            remember(self._failures, key, (self._clock() + FAILURE_S, error))
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
        reach = self._sources.reach()
        while True:
            position = self._database.position
            rows = await self._database.read(list_transfers)
            wanted = {(row.origin, row.media_id): row for row in rows}
            for key, under_way in self._active.items():
                row = wanted.get(key)
                if row is None or row.asked != under_way.row.asked:
                    under_way.changed.set()
                under_way.row = row or under_way.row
            for key, row in wanted.items():
                if key not in self._active and len(self._active) < TASKS_MAX:
                    self._active[key] = started = Transfer(row)
                    self._mesh.spawn(self._see_to(started), name="fetch media")
            if rows:
                await self._drop_old(rows)
            looked_at = self._clock()
            while self._clock() - looked_at < self._look_s:
                if await self._database.wait([TOPIC], after=position, timeout_s=LOOK_S if rows else self._look_s):
                    break
                before, reach = reach, self._sources.reach()
                if reach != before:
                    for under_way in self._active.values():
                        under_way.changed.set()

    async def _drop_old(self, rows: list[TransferRow]) -> None:
        now_ms = self._wall_ms()
        if any(now_ms - row.requested_ms > _wanted_for_ms(row) for row in rows):
            await self._database.write(
                lambda tx: drop_transfers_before(
                    tx,
                    requested_ms=now_ms - REQUESTED_MS_MAX,
                    asked_ms=now_ms - ASKED_MS_MAX,
                    relayed_ms=now_ms - RELAYED_MS_MAX,
                )
            )

    # One file

    async def _see_to(self, under_way: Transfer) -> None:
        origin, media_id = under_way.key
        try:
            while await self._database.read(lambda tx: transfer(tx, origin, media_id)) is not None:
                under_way.changed.clear()
                under_way.rests = False
                try:
                    if await self._attempt(under_way):
                        self._settle(under_way.key)
                        return
                except OSError:
                    log.exception("media cannot be stored", extra={"media": under_way.row.uri})
                    under_way.assembly = None
                    await asyncio.sleep(DISK_S)
                    continue
                under_way.rests = under_way.state == HELD_BACK or not (under_way.tickets or under_way.looks_since)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._sources.pause_s(under_way)):
                        await under_way.changed.wait()
            self._remove_part(under_way)
        except (NotFound, RemoteTooLarge, CannotOverwriteMedia) as error:
            await self._database.write(lambda tx: drop_transfer(tx, origin, media_id))
            self._remove_part(under_way)
            self._settle(under_way.key, error)
        finally:
            self._active.pop(under_way.key, None)
            for waiting in self._active.values():
                if waiting.waits_for_room:
                    waiting.waits_for_room = False
                    waiting.changed.set()
            self._database.wake([TOPIC])

    def _part(self, under_way: Transfer) -> Path:
        return self._library.files.part_path(part_name(*under_way.key))

    def _remove_part(self, under_way: Transfer) -> None:
        with suppress(OSError):
            self._part(under_way).unlink(missing_ok=True)

    async def _attempt(self, under_way: Transfer) -> bool:
        """One look at who is in reach, and as much of the file as they have. Whether it is here.

        Raises: NotFound, RemoteTooLarge, when it is of no use to go on; OSError.
        """
        if not under_way.tickets:
            under_way.state = LOOKING
        await self._sources.find(under_way)
        manifest = under_way.manifest
        sources = self._sources.reachable(under_way)
        if manifest is None or not sources:
            return False
        held = await self._database.read(lambda tx: chunks_of(tx, manifest.sha256))
        if held is not None:
            await self._library.take_copy(manifest, under_way.text, held, None)
            return True
        if not self._is_worth_it(under_way, manifest, sources):
            return False
        if under_way.assembly is None:
            if not self._has_room(manifest.size):
                under_way.waits_for_room = True
                return False
            if not await self._begin(under_way, manifest):
                return False
        assembly = under_way.assembly
        assert assembly is not None
        if not assembly.is_whole:
            under_way.state = UNDER_WAY
            under_way.meter = Meter(self._clock())
            await _all(self._pull_from(under_way, assembly, server) for server in sources)
            await self._note(under_way)
        return assembly.is_whole and await self._finish(under_way, assembly)

    def _is_worth_it(self, under_way: Transfer, manifest: Manifest, sources: list[str]) -> bool:
        """Whether somebody asked for it, or it costs the best of the links little."""
        rates = [rate for server in sources if (rate := self._sources.rate(server)) is not None]
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

    def _has_room(self, size: int) -> bool:
        """What is under way may take as much of the disk as what is kept of other nodes' media.

        What nobody can bring now, and nobody asked for by name, gives way, the longest wanted first.
        """
        begun = [each for each in self._active.values() if each.assembly is not None]
        too_much = size + sum(each.row.size for each in begun) - self._library.limits.cache_octets
        stalled = [each for each in begun if each.state == LOOKING and not each.row.asked]
        for each in sorted(stalled, key=lambda each: each.row.requested_ms):
            if too_much <= 0:
                break
            too_much -= each.row.size
            each.assembly = None
            self._remove_part(each)
        return too_much <= 0

    # Its octets

    async def _begin(self, under_way: Transfer, manifest: Manifest) -> bool:
        """Makes ready to collect, with what an earlier run of the node left. Raises: OSError."""
        chunks = await self._sources.hashes(under_way, manifest)
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

    async def _pull_from(self, under_way: Transfer, assembly: Assembly, server: str) -> None:
        """Takes chunks from one server until none are left to ask for, or it does not bring them."""
        rate = self._sources.rate(server)
        if rate is None:
            return
        async with self._sources.turn(server, rate):
            side_by_side = 2 if is_slow(rate) else AT_ONCE
            await _all(self._pull(under_way, assembly, server, rate) for _ in range(side_by_side))

    async def _pull(self, under_way: Transfer, assembly: Assembly, server: str, rate: LinkRate) -> None:
        origin, media_id = under_way.key
        part_octets = part_octets_on(rate.bit_rate)
        while server in under_way.tickets and self._sources.is_trusted(server):
            span = assembly.take(part_octets)
            if span is None:
                return
            try:
                data = await self._octets(under_way, server, span, rate)
            except PeerUnreachable:
                under_way.tickets.pop(server, None)
                data = None
            except BaseException:  # whatever it is, the span is wanted from others again, and it is raised again
                assembly.give_back(span)
                raise
            if data is None:
                assembly.give_back(span)
                return
            good, bad = assembly.put(span, data)
            if bad:
                self._sources.distrust(server, "a chunk with another hash")
                under_way.tickets.pop(server, None)
            if good:
                path = self._part(under_way)
                await self._library.files.run(lambda path=path, good=good: _write(path, good))  # type: ignore[misc]
                self._tell_progress(under_way, assembly, server)
            if await self._database.read(lambda tx: transfer(tx, origin, media_id)) is None:
                return

    async def _octets(self, under_way: Transfer, server: str, span: Span, rate: LinkRate) -> bytes | None:
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

    async def _finish(self, under_way: Transfer, assembly: Assembly) -> bool:
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

    def _tell_progress(self, under_way: Transfer, assembly: Assembly, server: str) -> None:
        meter, held, size = under_way.meter, assembly.octets_held, assembly.manifest.size
        if meter is None:
            return
        seconds_left = meter.seconds_left(held, size, self._clock())
        under_way.seconds_left = int(seconds_left)
        if meter.is_worth_telling(seconds_left, self._clock()):
            self._tell_people(under_way, assembly.manifest, server, octets=held)
            self._mesh.spawn(self._note(under_way), name="note media")

    def _tell_people(self, under_way: Transfer, manifest: Manifest, server: str, *, octets: int) -> None:
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

    async def _note(self, under_way: Transfer) -> None:
        """Writes down how far it is, for people who ask another process."""
        origin, media_id = under_way.key
        held = 0 if under_way.assembly is None else under_way.assembly.octets_held
        state, seconds_left = under_way.state, under_way.seconds_left
        source = next(iter(under_way.tickets), None)

        def unit(tx: Tx) -> None:
            note_state(tx, origin, media_id, state=state, source=source, octets=held, seconds_left=seconds_left)

        await self._database.write(unit)


def _wanted_for_ms(row: TransferRow) -> int:
    """How long a file is wanted after it was asked for last."""
    if row.asked:
        return ASKED_MS_MAX
    return REQUESTED_MS_MAX if row.for_server is None else RELAYED_MS_MAX


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them side by side to their ends; then raises the first error, if there was one."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


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
