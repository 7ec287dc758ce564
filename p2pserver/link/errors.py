"""What goes wrong on a link.

    LinkError
    ├── LocalLinkError              our caller's mistake, or our own limit
    │   ├── QueueFull               too much is queued for this peer; try again when something was delivered
    │   └── MessageSize             a message is empty or over 1 MiB
    └── RemoteLinkError             the other side sent what the specification forbids (docs/link.md)
        ├── PeerRefused             a handshake that was sound, with a key that may not talk to us
        └── PeerCut                 all peers together sent more than this node may hold, and this one gives way

A `RemoteLinkError` never leaves `LinkEndpoint`: there it becomes a counted datagram or the end of the pipe.
"""

from __future__ import annotations


class LinkError(Exception):
    """The base of both trees."""


class LocalLinkError(LinkError):
    """A call that cannot be fulfilled."""


class QueueFull(LocalLinkError):
    """The queue of this peer holds as many octets or messages as it may."""


class MessageSize(LocalLinkError):
    """A message must have between 1 and MESSAGE_OCTETS_MAX octets."""


class RemoteLinkError(LinkError):
    """The other side broke the protocol."""


class PeerCut(RemoteLinkError):
    """The peer kept to its limits; all peers together did not. Its conversation is over."""


class PeerRefused(RemoteLinkError):
    """The peer's key is our own, blocked, or does not belong to the static key of the handshake."""
