"""The timers of a pipe, derived from what its transport says of itself: 300 bit/s to 100 Mbit/s (docs/links.md)."""

from __future__ import annotations

from typing import Final

from p2pserver.link.limits import LinkTimers
from transports.contract import LinkProfile

FAST_BIT_RATE: Final = 64_000
"""From here on a timer may ask every few seconds; below it, what an idle link costs counts."""
KEEPALIVE_BIT_RATE_MIN: Final = 1_200
"""Below this bit rate an idle pipe is not asked whether the peer is there."""
SLOW_KEEPALIVE_S: Final = 900.0
"""A PING and its acknowledgement have under 30 octets: 0.27 bit/s, and half as much again at 20 % loss."""
SLOW_DATAGRAM_OCTETS: Final = 255
HANDSHAKE_MESSAGE_OCTETS: Final = 160
HANDSHAKE_HEADER_OCTETS: Final = 9
ANSWER_LATENCY_S: Final = 0.25
"""What a peer may take beyond airtime to answer: its event loop, a modem that turns from receiving to sending."""
SHORT_ACK_DELAY_S: Final = 0.1


def airtime_s(profile: LinkProfile, octets: int) -> float:
    """How long a datagram of so many octets keeps the medium busy; 0 on a link that is fast enough not to pace."""
    if profile.bit_rate is None:
        return 0.0
    return profile.datagram_overhead_ms / 1000 + 8 * octets / profile.bit_rate


def datagram_octets(profile: LinkProfile) -> int:
    """The datagram size to use: the link's own, but none that keeps a slow link busy for over half a second, unless
    that is under 255 octets."""
    if profile.bit_rate is None:
        return profile.addressed_octets_max
    return min(profile.addressed_octets_max, max(SLOW_DATAGRAM_OCTETS, profile.bit_rate // 16))


def timers_for(profile: LinkProfile) -> LinkTimers:
    """Timers that fit the link. Where it is not metered, not paced and keeps order they are those of a LAN."""
    lan = LinkTimers()
    reorder_wait_s = profile.reorder_ms / 1000
    if profile.bit_rate is None:
        return LinkTimers(reorder_wait_s=reorder_wait_s, timeout_min_s=max(lan.timeout_min_s, 1.5 * reorder_wait_s))
    octets_max = datagram_octets(profile)
    full_s = airtime_s(profile, octets_max)
    room = max(1, octets_max - HANDSHAKE_HEADER_OCTETS)
    parts, rest = divmod(HANDSHAKE_MESSAGE_OCTETS, room)
    message_s = parts * full_s + (airtime_s(profile, rest + HANDSHAKE_HEADER_OCTETS) if rest else 0.0)
    retry_s = 2.2 * message_s + ANSWER_LATENCY_S
    slow = profile.bit_rate < FAST_BIT_RATE
    answer_s = max(lan.answer_s, 40 * full_s)
    return LinkTimers(
        handshake_limit_s=max(lan.handshake_limit_s, 16 * retry_s),
        handshake_retry_s=max(lan.handshake_retry_s, retry_s),
        handshake_retry_max_s=max(lan.handshake_retry_max_s, 3 * retry_s),
        initial_rtt_s=max(lan.initial_rtt_s, ANSWER_LATENCY_S + 2 * full_s),
        timeout_min_s=max(lan.timeout_min_s, 1.5 * reorder_wait_s),
        timeout_max_s=max(lan.timeout_max_s, 16 * full_s),
        ack_delay_s=min(max(lan.ack_delay_s, full_s), SHORT_ACK_DELAY_S),
        ack_every=8,
        reorder_wait_s=reorder_wait_s,
        idle_ping_s=lan.idle_ping_s if not slow else SLOW_KEEPALIVE_S if _keeps_alive(profile) else None,
        answer_s=answer_s,
        dead_after_s=answer_s + (0.0 if slow else lan.dead_after_s - lan.answer_s),
    )


def _keeps_alive(profile: LinkProfile) -> bool:
    return profile.bit_rate is None or profile.bit_rate >= KEEPALIVE_BIT_RATE_MIN
