"""What a pipe tells its owner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerAuthenticated:
    """The other side holds this Ed25519 key. Attach its conversation now."""

    peer_key: bytes
    epoch: int
    """The random number of the peer's process: another one than last time means that it restarted."""


@dataclass(frozen=True, slots=True)
class PipeDead:
    """The last event of a pipe: nothing more is sent or received. The conversation, if any, is detached."""

    reason: str


LinkEvent = PeerAuthenticated | PipeDead
