"""The timers of a pipe, derived from what its transport says of itself: 300 bit/s to 100 Mbit/s (docs/links.md)."""

from __future__ import annotations

from typing import Final

from p2pserver.link.airtime import AirtimeBudget
from p2pserver.link.frames import BITMAP_COUNTERS
from p2pserver.link.limits import LinkTimers
from p2pserver.link.pacing import Line, Pacer
from p2pserver.link.recovery import BURSTS_IN_FLIGHT
from transports.contract import LinkProfile

FAST_BIT_RATE: Final = 64_000
"""From here on a timer may ask every few seconds; below it, what an idle link costs counts."""
KEEPALIVE_BIT_RATE_MIN: Final = 1_200
"""Below this bit rate an idle pipe is not asked whether the peer is there."""
SLOW_KEEPALIVE_S: Final = 1_200.0
"""A PING and its acknowledgement have under 30 octets: under 0.2 bit/s, and 0.5 where a third of all is lost."""
SLOW_DATAGRAM_OCTETS: Final = 255
HANDSHAKE_MESSAGE_OCTETS: Final = 160
HANDSHAKE_HEADER_OCTETS: Final = 9
ANSWER_LATENCY_S: Final = 0.25
"""What a peer may take beyond airtime to answer: its event loop, a modem that turns from receiving to sending."""
SHORT_ACK_DELAY_S: Final = 0.1
ASK_EVERY: Final = 48
"""On a radio that carries both ways in one channel, as Bluetooth does, acknowledgements take from what they tell of."""
SLOW_ANSWER_S: Final = 60.0
"""Some twenty questions: where a third of all datagrams is lost, half of the questions have no answer."""
DATAGRAMS_PER_HOUR_MIN: Final = 20
METERED_DATAGRAM_OCTETS: Final = 64
METERED_ANSWER_S: Final = 3_900.0
"""A peer that has used up its airtime is silent for up to an hour."""
METERED_TIMEOUT_MAX_S: Final = 300.0
TURN_S: Final = 0.1
"""What an answer at once may take beyond the round trip that was measured."""
BURST_S: Final = 4.0
BURST_MIN: Final = 4
BURST_MAX: Final = 32
ACK_OVERHEAD_OCTETS: Final = 18


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
    octets = min(profile.addressed_octets_max, max(SLOW_DATAGRAM_OCTETS, profile.bit_rate // 16))
    if profile.airtime_ms_per_hour is not None:
        most_ms = profile.airtime_ms_per_hour / DATAGRAMS_PER_HOUR_MIN - profile.datagram_overhead_ms
        octets = min(octets, max(METERED_DATAGRAM_OCTETS, int(most_ms * profile.bit_rate / 8_000)))
    return octets


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
    turns = profile.half_duplex
    answer_s = max(SLOW_ANSWER_S if slow else lan.answer_s, 150 * full_s)
    timeout_max_s = max(3.0, 6 * full_s)
    if profile.airtime_ms_per_hour is not None:
        answer_s, timeout_max_s = max(METERED_ANSWER_S, answer_s), max(METERED_TIMEOUT_MAX_S, timeout_max_s)
    return LinkTimers(
        handshake_limit_s=max(lan.handshake_limit_s, 16 * retry_s),
        handshake_retry_s=max(lan.handshake_retry_s, retry_s),
        handshake_retry_max_s=max(lan.handshake_retry_max_s, 3 * retry_s),
        initial_rtt_s=max(lan.initial_rtt_s, ANSWER_LATENCY_S + 2 * full_s),
        timeout_min_s=max(TURN_S, 1.5 * reorder_wait_s),
        timeouts_alike=3 if turns else 0,
        timeout_max_s=timeout_max_s,
        ack_delay_s=min(max(lan.ack_delay_s, full_s if slow else 2 * ASK_EVERY * full_s), SHORT_ACK_DELAY_S),
        ack_every=64 if turns else 8 if slow else 2 * ASK_EVERY,
        ask_every=0 if turns or slow else ASK_EVERY,
        ack_quiet_s=4.5 * full_s + SHORT_ACK_DELAY_S if turns else 0.0,
        burst_datagrams=burst_datagrams(octets_max, full_s) if turns else 0,
        reorder_datagrams=1 if turns and not profile.reorder_ms else lan.reorder_datagrams,
        reorder_wait_s=reorder_wait_s,
        idle_ping_s=lan.idle_ping_s if not slow else SLOW_KEEPALIVE_S if _keeps_alive(profile) else None,
        answer_s=answer_s,
        dead_after_s=answer_s + (0.0 if slow else lan.dead_after_s - lan.answer_s),
    )


def burst_datagrams(octets_max: int, full_s: float) -> int:
    """How many datagrams go out before the other side of a half-duplex line has its turn: four seconds, unless that is
    under 4 or over 32 datagrams, or more than one acknowledgement can tell of when many are lost."""
    ranges = (octets_max - ACK_OVERHEAD_OCTETS) // 2
    told = max(BITMAP_COUNTERS, 4 * ranges)
    return max(BURST_MIN, min(BURST_MAX, told // BURSTS_IN_FLIGHT, round(BURST_S / full_s)))


def line_for(profile: LinkProfile) -> Line:
    """What all pipes over one radio share."""
    budget = profile.airtime_ms_per_hour
    return Line(None if budget is None else AirtimeBudget(budget), is_shared=profile.shared_medium)


def pacer_for(profile: LinkProfile, line: Line | None = None) -> Pacer:
    """What keeps a pipe from handing over more than the line carries."""
    burst = timers_for(profile).burst_datagrams
    return Pacer(profile.bit_rate, profile.datagram_overhead_ms / 1000, burst, line or line_for(profile))


def _keeps_alive(profile: LinkProfile) -> bool:
    return profile.bit_rate is None or profile.bit_rate >= KEEPALIVE_BIT_RATE_MIN
