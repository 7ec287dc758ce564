"""What a node does by the clock, though nothing happened."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pserver.federation.limits import PeeringTimers
from p2pserver.link import LinkTimers
from p2pserver.node.healing import HealingTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimers:
    """Times in seconds. The defaults fit a LAN and mains power; a radio or a battery asks for longer ones."""

    link: LinkTimers | None = None
    """None: for each link those that fit its profile."""
    peering: PeeringTimers = field(default_factory=PeeringTimers)
    healing: HealingTimes = field(default_factory=HealingTimes)
    blocks_s: float = 2.0
    """How often the list of blocked servers is read again: another process may have changed it."""
    seen_s: float = 60.0
    """How often it is noted who is in reach, and conversations with peers long gone are forgotten."""
    media_s: float = 10.0
    """How often it is looked which media are wanted: another process may have asked for some."""
