"""A whole transport in sixty statements: datagrams are files in a folder that both nodes see, on a stick or a share.

`3-anna` says that anna is ready for link 3, `3-anna.17` is her 18th datagram on it, `3.end` ends it. An entry point
`folder = "folder_transport:FolderTransport"` in the group `p2pserver.transports` of some package makes it
`p2pserver run --transport folder:path=/mnt/stick,name=anna,peer=ben`. docs/transports.md has the contract.
"""

# ruff: noqa: ASYNC110, ASYNC240  a folder tells nobody when something is put into it, and is quick to look into
import asyncio
from itertools import count
from pathlib import Path

from transports.contract import LinkDown, LinkProfile, Parameters, TransportStatus, check_datagram

LOOK_S, WAITING_MAX = 0.02, 64  # how often to look; datagrams that the other side has not taken: then `send` waits
WIRE = {"broadcast_octets_max": None, "bit_rate": None, "airtime_ms_per_hour": None, "shared_medium": False}
PROFILE = LinkProfile(kind="folder", addressed_octets_max=65_000, half_duplex=False, **WIRE)


class FolderLink:
    profile, peer_hint, _closed = PROFILE, None, False

    def __init__(self, path: Path, number: int, name: str, peer: str) -> None:
        self.initiator, self.remote = name < peer, f"folder {path}, link {number} to {peer}"
        self._out, self._in, self.end = path / f"{number}-{name}", path / f"{number}-{peer}", path / f"{number}.end"
        self._sent = self._received = 0

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, PROFILE)
        while not self.end.exists() and Path(f"{self._out}.{self._sent - WAITING_MAX}").exists():
            await asyncio.sleep(LOOK_S)
        if self.end.exists():
            raise LinkDown("closed")
        part = self._out.with_name(f"part-{self._out.name}")
        part.write_bytes(datagram)
        part.rename(f"{self._out}.{self._sent}")  # it is there as a whole, or not at all
        self._sent += 1

    async def receive(self) -> bytes:
        while self._closed or not Path(f"{self._in}.{self._received}").exists():
            if self._closed or self.end.exists():
                raise LinkDown("closed")
            await asyncio.sleep(LOOK_S)
        arrived, self._received = Path(f"{self._in}.{self._received}"), self._received + 1
        datagram = arrived.read_bytes()
        arrived.unlink()
        return datagram

    async def close(self) -> None:
        self._closed = True
        self.end.touch()


class FolderTransport:
    kind = "folder"

    def __init__(self, path: str, name: str, peer: str) -> None:
        self._path, self._name, self._peer = Path(path), name, peer
        self._links: asyncio.Queue[FolderLink | None] = asyncio.Queue()  # None: closed
        self._link: FolderLink | None = None
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    def from_parameters(cls, parameters: str) -> "FolderTransport":
        given = Parameters.parse(parameters, once=frozenset({"path", "name", "peer"}))
        if len(given.pairs) < 3 or given.one("name") == given.one("peer"):
            raise ValueError("name a folder and both nodes, as in folder:path=/mnt/stick,name=anna,peer=ben")
        return cls(**dict(given.pairs))

    async def start(self, instance_id: bytes) -> None:
        self._keeper = asyncio.create_task(self._keep_linked())

    async def _keep_linked(self) -> None:
        for number in count():
            end, ready = (self._path / f"{number}{kind}" for kind in (".end", f"-{self._name}"))
            if ready.exists():  # of a run that ended, perhaps without a word
                end.touch()
            while not end.exists():
                ready.touch()
                if self._link is None and (self._path / f"{number}-{self._peer}").exists():
                    self._link = FolderLink(self._path, number, self._name, self._peer)
                    self._links.put_nowait(self._link)
                await asyncio.sleep(LOOK_S)
            self._link = None

    async def next_link(self) -> FolderLink:
        link = await self._links.get()
        if link is None:
            self._links.put_nowait(None)
            raise LinkDown("the transport is closed")
        return link

    def status(self) -> TransportStatus:
        return TransportStatus(kind=self.kind, listening=(str(self._path),))

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        if self._link is not None:
            await self._link.close()
        self._links.put_nowait(None)
