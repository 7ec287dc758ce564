"""A whole transport in sixty lines of text: datagrams are files in a folder that both nodes see, on a stick or a share.

`3-anna` says that anna is ready for link 3, `3-anna.17` is her 18th datagram on it, `3.end` ends it. An entry point
`folder = "folder_transport:FolderTransport"` in the group `p2pserver.transports` of some package makes it
`p2pserver run --transport folder:path=/mnt/stick,name=anna,peer=ben`. docs/transports.md has the contract.
"""

import asyncio
from itertools import count
from pathlib import Path

from transports.base import LinkBase, TransportBase
from transports.contract import LinkProfile, Parameters

PROFILE = LinkProfile(kind="folder", addressed_octets_max=65_000)
LOOK_S, WAITING_MAX = 0.02, 64  # how often to look; datagrams that the other side has not taken: then `send` waits


class FolderLink(LinkBase):
    def __init__(self, path: Path, number: int, name: str, peer: str) -> None:
        super().__init__(PROFILE, initiator=name < peer, remote=f"folder {path}, link {number} to {peer}")
        self._out, self._in, self._end = path / f"{number}-{name}", path / f"{number}-{peer}", path / f"{number}.end"
        self._sent = self._received = 0

    async def transmit(self, datagram: bytes) -> None:
        while Path(f"{self._out}.{self._sent - WAITING_MAX}").exists():  # noqa: ASYNC240  quick
            await asyncio.sleep(LOOK_S)
            self.check_open()
        part = self._out.with_name(f"part-{self._out.name}")
        part.write_bytes(datagram)
        part.rename(f"{self._out}.{self._sent}")  # it is there as a whole, or not at all
        self._sent += 1

    def look(self) -> None:
        while self.has_room and (file := Path(f"{self._in}.{self._received}")).exists():
            self.arrived(file.read_bytes())
            file.unlink()
            self._received += 1
        if self._end.exists():
            self.end("closed by the other side")

    def ended(self, reason: str) -> None:
        self._end.touch()


class FolderTransport(TransportBase[FolderLink]):
    kind = "folder"

    def __init__(self, path: str, name: str, peer: str) -> None:
        super().__init__()
        self._path, self._name, self._peer = Path(path), name, peer

    @classmethod
    def from_parameters(cls, parameters: str) -> "FolderTransport":
        return cls(**Parameters.all_of(parameters, "path", "name", "peer"))

    async def begin(self) -> None:
        self.work_on(self._keep_linked(), name=str(self._path))

    async def _keep_linked(self) -> None:
        for number in count():
            end, ready, theirs = (self._path / f"{number}{of}" for of in (".end", f"-{self._name}", f"-{self._peer}"))
            if ready.exists():  # of a run that ended, perhaps without a word
                end.touch()
            link = None
            while not end.exists():
                ready.touch()
                if link is None and theirs.exists():
                    link = FolderLink(self._path, number, self._name, self._peer)
                    self.offer(link)
                elif link is not None:
                    link.look()
                await asyncio.sleep(LOOK_S)
            if link is not None:
                link.look()
