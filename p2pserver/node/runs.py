"""This run of the node, as peers remember it: whether the database has gone back, or a second node has our key.

Each peer keeps a mark of ours (`federation.marks`) and gives it back with its Hello. A mark that our database cannot
have made tells that it is older than what we have told others; then the node goes on anew. See docs/backup.md.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Final

from p2pserver.federation.marks import RUN_OCTETS, Mark, Marks, run_of
from p2pserver.mesh.neighbors import RunsHeard
from p2pserver.node.identity import Identity
from p2pserver.node.peer_events import KeyUsedTwice, PeerEvent, SetBack
from p2pserver.rooms.anew import go_on_anew
from p2pserver.store import runs as rows
from p2pserver.store.alarms import KEY_USED_TWICE, SET_BACK, THE_NODE, raise_alarm
from p2pserver.store.database import Database
from p2pserver.store.runs import MarkStanding
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

POSITIONS_AHEAD: Final = 1 << 28
"""Of the stream: a run begins up to so many positions ahead of the last one."""
PEERS_REMEMBERED: Final = 4_096


async def notice_older_database(database: Database, newest: bytes, *, server_name: str, now_ms: int) -> bool:
    """Before the node starts: goes on anew, if the database knows nothing of the run that was the newest."""

    def unit(tx: Tx) -> bool:
        if rows.is_known(tx, newest) or not rows.note_strange_run(tx, newest, 0):
            return False
        rows.last_run_went_on(tx)
        go_on_anew(tx)
        details = {"told_by": "the data folder", "here": tx.position()}
        raise_alarm(tx, room_id=THE_NODE, kind=SET_BACK, about=server_name, details=details, now_ms=now_ms)
        return True

    return await database.write(unit)


class Runs:
    """The marks that are given, kept and looked at."""

    def __init__(
        self,
        *,
        identity: Identity,
        database: Database,
        drawn: bytes,
        wall_ms: Callable[[], int],
        tell: Callable[[PeerEvent], None],
        begun_anew: Callable[[], None],
    ) -> None:
        """`drawn`: random octets of this process, that nobody else has drawn. `begun_anew` hears that the database has
        gone back and that the node goes on anew."""
        self._identity = identity
        self._database = database
        self._wall_ms = wall_ms
        self._tell = tell
        self._begun_anew = begun_anew
        digest = hashlib.blake2b(drawn, person=b"p2p run").digest()
        self._run, self._ahead = digest[:RUN_OCTETS], 1 + int.from_bytes(digest[8:16], "big") % POSITIONS_AHEAD
        self._salt = digest[16:24]
        self._contacts = 0
        self._kept: dict[bytes, bytes] = {}
        self._unwritten: dict[bytes, bytes] = {}
        self._given_back: dict[bytes, bytes] = {}
        """By key, the mark of ours that the peer gave back last."""
        self._heard = RunsHeard()

    @property
    def run(self) -> bytes:
        return self._run

    @property
    def salt(self) -> bytes:
        """Of this process, 8 octets."""
        return self._salt

    async def begin(self) -> None:
        """Before the first contact, durably."""
        await self._database.write(lambda tx: rows.begin_run(tx, self._run, ahead=self._ahead))
        self._kept = dict(await self._database.read(rows.marks_kept))

    # Marks

    def maker(self, key: bytes) -> Callable[[], bytes]:
        """Makes the mark that a peer is to keep, as of the moment, in a conversation that begins."""
        self._contacts += 1
        marks, contact = Marks(self._identity.seed, key), self._contacts
        return lambda: marks.make(self._run, self._database.position, contact)

    def kept(self, key: bytes) -> bytes:
        """The newest mark of a peer."""
        return self._kept.get(key, b"")

    def keep(self, key: bytes, mark: bytes) -> None:
        """The peer gave a mark; it is written down with the next note on who was seen."""
        if mark and mark != self._kept.get(key):
            self._kept[key] = self._unwritten[key] = mark

    def write(self, tx: Tx) -> None:
        """Writes down what was given of late, in the unit of work of somebody else."""
        unwritten, self._unwritten = self._unwritten, {}
        rows.keep_marks(tx, sorted(unwritten.items()))

    # What they tell

    async def greeted(self, key: bytes, name: str, mark: bytes, given_back: bytes) -> bool:
        """A peer said Hello; whether it is to be asked what it knows of our users."""
        self.keep(key, mark)
        if mark and self._heard.is_back(key, run_of(mark)):
            await self._used_twice(name, ours=False)
        found = Marks(self._identity.seed, key).read(given_back)
        before = self._given_back.pop(key, None)
        self._given_back[key] = given_back
        if len(self._given_back) > PEERS_REMEMBERED:
            del self._given_back[next(iter(self._given_back))]
        standing = MarkStanding.KNOWN
        if found is not None:
            standing = await self._database.read(lambda tx: rows.standing_of(tx, *found))
        if found is not None and standing is not MarkStanding.KNOWN:
            # A peer that gives back another one than at its last contact with this process got it in between.
            if before is not None and before != given_back:
                await self._used_twice(self._identity.server_name, ours=True)
            await self._went_back(key, name, found)
        return await self._database.read(lambda tx: rows.is_to_be_asked(tx, key))

    async def _went_back(self, key: bytes, name: str, mark: Mark) -> None:
        """A mark is of something that the database does not know; the first time that it is told, the node goes on
        anew, unless it has gone on anew already and the peer has not been met since."""
        now_ms = self._wall_ms()
        details = {"told_by": name, "known_to": mark.position, "here": self._database.position}

        def unit(tx: Tx) -> bool:
            is_new = rows.note_strange_run(tx, *mark)
            rows.run_went_on(tx, mark.run)
            if not is_new or rows.is_to_be_asked(tx, key):
                return False
            go_on_anew(tx)
            raise_alarm(
                tx,
                room_id=THE_NODE,
                kind=SET_BACK,
                about=self._identity.server_name,
                details=details,
                now_ms=now_ms,
            )
            return True

        if await self._database.write(unit):
            log.warning("this node's data are older than what it told others: it goes on anew", extra=details)
            self._tell(SetBack(name))
            self._begun_anew()

    async def own_key_met(self, where: str) -> None:
        """A link leads to another process with our key."""
        await self._used_twice(self._identity.server_name, ours=True, where=where)

    async def _used_twice(self, name: str, *, ours: bool, where: str = "") -> None:
        details = {"where": where} if where else {}
        now_ms = self._wall_ms()

        def unit(tx: Tx) -> bool:
            return raise_alarm(tx, room_id=THE_NODE, kind=KEY_USED_TWICE, about=name, details=details, now_ms=now_ms)

        if await self._database.write(unit):
            text = "another node runs with this node's key" if ours else "two nodes run with the key of a peer"
            log.warning(text, extra={"server": name, **details})
            self._tell(KeyUsedTwice(name, ours))
