"""Limits that both sides of a link rely on, and the timers of one pipe.

The limits are part of the protocol (docs/link.md, "Limits"): a change of one is a change of the version. The timers are
local: each side may choose its own, by the speed of its transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

DATAGRAM_OCTETS_MIN = 20
"""The smallest datagram size that a pipe may have: what Bluetooth LE carries with its least MTU."""
DATAGRAM_OCTETS_MAX = 65_535

MESSAGE_OCTETS_MAX = 1 << 20
"""The largest whole message of a conversation."""
MESSAGE_CHARGE_OCTETS = 256
"""What a message costs of the credit beyond its octets, so that a flood of tiny messages is bounded too."""
CREDIT_OCTETS = 2 << 20
"""Octets (with charges) that a peer may have sent and that the receiver's application has not yet taken."""
CREDIT_RESERVED_OCTETS = 256 << 10
"""The part of the credit that only ALERT and TEXT may use: a large file cannot hold up a short message."""

QUEUE_OCTETS_MAX = 2 << 20
"""Octets of messages that wait for delivery to one peer."""
QUEUE_MESSAGES_MAX = 16_384

HANDSHAKE_OCTETS_MAX = 4_096
"""Octets in assembly before the peer is known."""
HANDSHAKE_PARTS_MAX = 8
EARLY_OCTETS_MAX = 1_024
"""Octets of frames in message 1 of IK."""
ASSEMBLY_GAPS_MAX = 8_192
"""Separate ranges that one peer's unfinished messages may consist of, over all of them."""

REPLAY_WINDOW = 512
"""How many counters back a datagram may arrive."""
IN_FLIGHT_MAX = 384
"""Unacknowledged datagrams on one pipe; less than the replay window, so that a late one still counts."""
BAD_DATAGRAMS_MAX = 1_000
"""Datagrams with a wrong tag or without sense, with no good one in between, after which a pipe is given up."""
FORGERIES_MAX = 1 << 20
"""Wrong tags in the whole life of a pipe: each is a guess that succeeds once in 2^64."""
REKEY_DATAGRAMS = 65_536
"""After so many datagrams a side sends under the next key."""
REKEY_S = 3_600
"""And after so many seconds, if it sends at all."""
UNHEARD_MAX = 1_024
"""After so many datagrams of which none was acknowledged, as none asked for it, one asks."""
ACK_RANGES_MAX = 64
ACK_LATE_MAX = 64
"""An ACK in a datagram that comes so many places late is ignored: later ones say more."""
COUNTER_MAX = (1 << 62) - 1


class Priority(IntEnum):
    """What goes first; pre-emption is at datagram boundaries, order is kept within a class only."""

    ALERT = 0
    TEXT = 1
    STATE = 2
    RECEIPT = 3
    MEDIA = 4
    PRESENCE = 5


ALL_CLASSES: Final = tuple(Priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimers:
    """Times of one pipe, in seconds. The defaults fit a LAN; `timing.timers_for` derives those of a slower link."""

    handshake_limit_s: float = 10.0
    """A handshake that makes no progress for this long has failed."""
    handshake_retry_s: float = 0.25
    handshake_retry_max_s: float = 1.0
    initial_rtt_s: float = 0.3
    timeout_min_s: float = 0.05
    """The least time after which an unanswered datagram is sent again."""
    timeout_max_s: float = 1.0
    timeouts_alike: int = 0
    """Timeouts in a row before the waits begin to double."""
    ack_delay_s: float = 0.005
    ack_every: int = 2
    """Datagrams after which an acknowledgement is sent without waiting for ack_delay_s."""
    ask_every: int = 0
    """Full duplex: the sender asks for an acknowledgement after half a window, or so many datagrams; 0: it leaves
    that to the receiver."""
    ack_quiet_s: float = 0.0
    """Half duplex: an acknowledgement waits until no full datagram has come for this long, or a PING asks for it."""
    burst_datagrams: int = 0
    """Half duplex: so many datagrams are sent, then the other side has its turn; 0: both send when they like."""
    reorder_datagrams: int = 3
    """A datagram is lost when one sent this many later was acknowledged; grows where the link reorders more."""
    reorder_wait_s: float = 0.0
    """And not before this age: some Bluetooth stacks deliver up to 31 places late."""
    idle_ping_s: float | None = 15.0
    """Silence after which the peer is asked whether it is there; None: never."""
    dead_after_s: float = 25.0
    """Silence after which a pipe with something unanswered is dead."""
    answer_s: float = 10.0
    """But not before something has been unanswered for this long."""
