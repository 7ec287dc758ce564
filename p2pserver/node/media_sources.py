"""Who in reach has a file of another node, and what its origin says of it. Part of the transfers between nodes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from p2pserver.client_api.join_progress import Meter
from p2pserver.errors import MatrixError, NotFound, NotYetUploaded, RemoteTooLarge
from p2pserver.events.signing import KeyLookup
from p2pserver.events.unpadded_base64 import decode_base64
from p2pserver.federation.media_assembly import QUESTION_OCTETS, Assembly, LinkRate, MediaPolicy
from p2pserver.federation.media_manifest import BadManifest, Manifest, check_manifest
from p2pserver.node.session import Session
from p2pserver.rooms.media_library import MediaLimits
from p2pserver.store.database import Database
from p2pserver.store.media_transfers import HELD_BACK, LOOKING, TransferRow, note_chunks, note_manifest
from p2pserver.wire.messages import TICKET_OCTETS_MAX

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE = 4
"""Files that are fetched at a time over a fast link; over a slow one it is one."""
SERVERS_ASKED_MAX = 8
"""So many are asked who has a file, before it is looked at who has answered."""
SOURCES_MAX = 3
SLOWER_MAX = 8
"""A source over a link so many times slower than the best one is left in peace."""
SLOW_BIT_RATE = 256_000
SOON_S, LATER_S = 3.0, 30.0
"""When a server is asked again that looks for the file itself (each time later), and one that does not have it."""
SLOW_TIMES = 20
"""Over a slow link the latter is so much longer."""
QUESTIONS_APART = 4
"""Questions for a file that is being looked for are so many times their own length apart at least."""
PAUSE_S = 600.0
"""How long nothing is done about a file, while nobody comes into reach who might have it."""
LOOK_S = 2.0
"""How often it is looked who is in reach, while something is wanted."""
QUESTION_S = 10.0
DISTRUST_S = 600.0
"""So long nothing is asked of a server that sent something forged."""
REMEMBERED_MAX = 512
_SAMPLE_OCTETS = 1_000_000


class Neighborhood(Protocol):
    """The conversations of the node."""

    def connected(self) -> list[str]: ...

    def session_named(self, server: str) -> Session | None: ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None: ...

    async def ask(self, server: str, name: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]: ...


@dataclass(slots=True, eq=False)
class Transfer:
    """One file that is wanted. What the row does not say is found again after a restart."""

    row: TransferRow
    manifest: Manifest | None = None
    text: str = ""
    """The JSON text of the manifest."""
    chunks: bytes = b""
    """The hashes of the chunks."""
    assembly: Assembly | None = None
    tickets: dict[str, bytes] = field(default_factory=dict)
    """Who has it, as he says."""
    ask_at: dict[str, float] = field(default_factory=dict)
    """By server, when it may be asked whether it has the file."""
    looks_since: dict[str, int] = field(default_factory=dict)
    """By server, how often it said that it looks for the file itself."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = LOOKING
    seconds_left: int | None = None
    meter: Meter | None = None
    told_held_back: bool = False
    waits_for_room: bool = False
    """Others that are under way will take all the room that there is."""
    rests: bool = False
    """Nobody who was asked brings it or looks for it, or it is held back."""

    @property
    def key(self) -> tuple[str, str]:
        return self.row.origin, self.row.media_id


class MediaSources:
    """The servers in reach, as sources of files: their links, their turns, who of them lied."""

    def __init__(
        self,
        *,
        database: Database,
        limits: Callable[[], MediaLimits],
        mesh: Neighborhood,
        keys: KeyLookup,
        policy: MediaPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._limits = limits
        self._mesh = mesh
        self._keys = keys
        self._policy = policy
        self._clock = clock
        self._distrusted: OrderedDict[str, float] = OrderedDict()
        self._turns: OrderedDict[str, asyncio.Semaphore] = OrderedDict()

    # Links

    def rate(self, server: str) -> LinkRate | None:
        """Of the link to a server; None, if it cannot be asked now."""
        session = self._mesh.session_named(server)
        profile = None if session is None else session.media_profile
        if profile is None:
            return None
        return LinkRate(bit_rate=profile.bit_rate, airtime_ms_per_hour=profile.airtime_ms_per_hour)

    def reach(self) -> list[tuple[str, LinkRate]]:
        """Who can be asked now, over what."""
        return [(server, rate) for server in self._mesh.connected() if (rate := self.rate(server)) is not None]

    def turn(self, server: str, rate: LinkRate) -> asyncio.Semaphore:
        """Of those that want something of a server over a slow link, one is served at a time."""
        turns = self._turns.get(server) or asyncio.Semaphore(1 if is_slow(rate) else AT_ONCE)
        remember(self._turns, server, turns)
        return turns

    def reachable(self, wanted: Transfer) -> list[str]:
        """Who has it and can be asked now, those over the fastest links first; none that is far slower than another."""
        rates = {server: self.rate(server) for server in wanted.tickets if self.is_trusted(server)}
        found = sorted((_seconds(rate), server) for server, rate in rates.items() if rate is not None)
        if not found:
            return []
        slowest = SLOWER_MAX * found[0][0] + 1.0
        return [server for seconds, server in found if seconds <= slowest][:SOURCES_MAX]

    def pause_s(self, wanted: Transfer) -> float:
        """Until somebody may be asked again, if nothing changes meanwhile."""
        if self.reachable(wanted):
            return PAUSE_S  # it is held back
        now = self._clock()
        asked_next = [
            wanted.ask_at.get(server, now)
            for server, rate in self.reach()
            if self.is_trusted(server)
            and server != wanted.row.for_server
            and (wanted.row.asked or self._policy.may_ask(rate))
        ]
        return min(max(min(asked_next, default=now + PAUSE_S) - now, LOOK_S), PAUSE_S)

    # Trust

    def is_trusted(self, server: str) -> bool:
        return self._clock() >= self._distrusted.get(server, 0.0)

    def distrusted(self) -> list[str]:
        """Who sent something forged of late."""
        return [server for server in self._distrusted if not self.is_trusted(server)]

    def distrust(self, server: str, why: str) -> None:
        log.warning("a neighbor sent forged media", extra={"peer": server, "reason": why})
        remember(self._distrusted, server, self._clock() + DISTRUST_S)

    # Who has it

    async def find(self, wanted: Transfer) -> None:
        """Asks those who may be asked now, the origin first, then those over fast links, until somebody has it.

        Raises: NotFound, if the origin says that there is no such file; RemoteTooLarge.
        """
        origin, now, reach = wanted.row.origin, self._clock(), dict(self.reach())
        for known in (wanted.ask_at, wanted.tickets, wanted.looks_since):
            for server in [server for server in known if server not in reach]:
                del known[server]
        asked = 0
        for server, rate in sorted(reach.items(), key=lambda each: (each[0] != origin, _seconds(each[1]))):
            if asked >= SERVERS_ASKED_MAX or self._has_enough(wanted, rate):
                break
            if server in wanted.tickets or server == wanted.row.for_server or not self.is_trusted(server):
                continue
            if wanted.ask_at.get(server, 0.0) > now:
                continue
            if not wanted.row.asked and not self._policy.may_ask(rate):
                wanted.state = HELD_BACK
                continue
            asked += 1
            async with self.turn(server, rate):
                await self._ask(wanted, server, rate)

    def _has_enough(self, wanted: Transfer, next_rate: LinkRate) -> bool:
        """Whether a source is known that is as good as any that could still be asked."""
        known = [rate for server in self.reachable(wanted) if (rate := self.rate(server)) is not None]
        return any(_seconds(rate) <= _seconds(next_rate) for rate in known)

    async def _ask(self, wanted: Transfer, server: str, rate: LinkRate) -> None:
        origin, media_id = wanted.key
        times = SLOW_TIMES if is_slow(rate) else 1
        wanted.ask_at[server] = self._clock() + LATER_S * times
        body = {"origin": origin, "media_id": media_id, "hops": wanted.row.hops}
        try:
            answer = await self._mesh.ask(server, "media", body, timeout_s=QUESTION_S)
        except NotFound:
            if server == origin:
                raise NotFound("its origin has no such media") from None
            return
        except NotYetUploaded:
            answer = {"looking": True}
        except MatrixError:
            return
        if answer.get("looking") is True:
            looks = wanted.looks_since[server] = wanted.looks_since.get(server, 0) + 1
            pause_s = min(SOON_S * 1.5 ** (looks - 1), 2 * LATER_S)
            wanted.ask_at[server] = self._clock() + pause_s + QUESTIONS_APART * rate.seconds_for(QUESTION_OCTETS)
            return
        try:
            is_same = await self._take_manifest(wanted, answer)
            ticket = _base64_of(answer, "ticket")
            if not 0 < len(ticket) <= TICKET_OCTETS_MAX:
                raise BadManifest("there is no ticket with it")
        except BadManifest as error:
            self.distrust(server, f"its manifest: {error}")
            return
        if is_same:
            wanted.tickets[server] = ticket

    async def _take_manifest(self, wanted: Transfer, answer: dict[str, Any]) -> bool:
        """The first that its origin signed counts; False for another one, though whoever brings it has not lied.

        Raises: BadManifest; RemoteTooLarge.
        """
        origin, media_id = wanted.key
        raw = answer.get("manifest")
        if not isinstance(raw, dict):
            raise BadManifest("there is none")
        manifest = check_manifest(raw, self._keys, origin=origin, media_id=media_id)
        self._recall_manifest(wanted)
        if wanted.manifest is not None and wanted.manifest != manifest:
            return False
        limits = self._limits()
        if manifest.size > min(limits.upload_octets, limits.cache_octets):
            raise RemoteTooLarge(f"a file of {manifest.size} octets is not fetched here")
        if wanted.manifest is None:
            wanted.manifest = manifest
            wanted.text = json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
            await self._database.write(
                partial(note_manifest, origin=origin, media_id=media_id, manifest=wanted.text, size=manifest.size)
            )
        return True

    def _recall_manifest(self, wanted: Transfer) -> None:
        """What an earlier run of the node was told."""
        if wanted.manifest is None and wanted.row.manifest is not None:
            raw = json.loads(wanted.row.manifest)
            origin, media_id = wanted.key
            wanted.manifest = check_manifest(raw, self._keys, origin=origin, media_id=media_id)
            wanted.text = wanted.row.manifest

    async def hashes(self, wanted: Transfer, manifest: Manifest) -> bytes | None:
        """The hashes of the chunks, of an earlier run of the node or from whoever has them right; None: nobody has."""
        if manifest.chunks is None:
            return b""
        wanted.chunks = wanted.chunks or wanted.row.chunks or b""
        if wanted.chunks:
            return wanted.chunks
        origin, media_id = wanted.key
        for server in self.reachable(wanted):
            body = {"origin": origin, "media_id": media_id}
            try:
                chunks = _base64_of(await self._mesh.ask(server, "media_chunks", body, timeout_s=QUESTION_S), "chunks")
                Assembly(manifest, chunks)
            except BadManifest as error:
                self.distrust(server, f"its hashes: {error}")
            except MatrixError:
                wanted.tickets.pop(server, None)
            else:
                wanted.chunks = chunks
                await self._database.write(partial(note_chunks, origin=origin, media_id=media_id, chunks=chunks))
                return chunks
        return None


def is_slow(rate: LinkRate) -> bool:
    return rate.bit_rate is not None and rate.bit_rate < SLOW_BIT_RATE


def remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    """Puts a value; the one that was put longest ago goes, where there are too many."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > REMEMBERED_MAX:
        known.popitem(last=False)


def _seconds(rate: LinkRate) -> float:
    return rate.seconds_for(_SAMPLE_OCTETS)


def _base64_of(answer: dict[str, Any], name: str) -> bytes:
    """Raises: BadManifest."""
    value = answer.get(name)
    try:
        return decode_base64(value if isinstance(value, str) else "?")
    except ValueError:
        raise BadManifest(f"{name} is not base64") from None
