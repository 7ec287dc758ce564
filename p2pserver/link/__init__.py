"""Secure conversations with neighbors over transports that lose, double and reorder datagrams.

A `LinkEndpoint` is one pipe: handshake, encryption, acknowledgements. A `Conversation` is one peer: queues and whole
messages, over one pipe after another. No clock, no randomness and no I/O: those are the owner's. See docs/link.md.
"""

from p2pserver.link.airtime import AirtimeBudget
from p2pserver.link.conversation import Conversation
from p2pserver.link.endpoint import LinkEndpoint
from p2pserver.link.errors import LinkError, LocalLinkError, MessageSize, QueueFull, RemoteLinkError
from p2pserver.link.limits import MESSAGE_OCTETS_MAX, QUEUE_OCTETS_MAX, LinkTimers, Priority
from p2pserver.link.link_events import LinkEvent, PeerAuthenticated, PipeDead
from p2pserver.link.node_key import EPOCHS
from p2pserver.link.pacing import Line, Pacer
from p2pserver.link.timing import airtime_s, datagram_octets, line_for, pacer_for, timers_for

__all__ = [
    "EPOCHS",
    "Conversation",
    "LinkEndpoint",
    "LinkEvent",
    "LinkTimers",
    "PeerAuthenticated",
    "PipeDead",
    "Priority",
    "LinkError",
    "LocalLinkError",
    "MessageSize",
    "QueueFull",
    "RemoteLinkError",
    "MESSAGE_OCTETS_MAX",
    "QUEUE_OCTETS_MAX",
    "AirtimeBudget",
    "Line",
    "Pacer",
    "line_for",
    "airtime_s",
    "pacer_for",
    "datagram_octets",
    "timers_for",
]
