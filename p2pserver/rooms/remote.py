"""Asking other servers: what `rooms` and the client API need of the node's conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class RemoteServers(Protocol):
    """The servers that can be asked now. Nothing waits for one that is away."""

    def connected(self) -> list[str]:
        """Names of the servers with an authenticated conversation at this moment."""

    async def ask(
        self,
        server: str,
        name: str,
        body: dict[str, Any],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """The answer to one of the questions of `p2pserver.rooms.s2s`.

        `timeout_s` is for silence: an answer of which parts arrive may take longer. `progress(octets, all)` hears of
        each part of a large one.

        Raises: PeerUnreachable, at once when the server is not connected, or at the timeout; whatever MatrixError the
        other side raised.
        """
