"""Limits and times of one peering. The limits bound what a hostile peer can cost; the times fit a LAN, or, derived from
them, a slow link."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

FAST_BIT_RATE: Final = 64_000
"""From here on a peering does by the clock what it does on a LAN."""
TIMERS_BIT_RATE_MIN: Final = 1_200
"""Below this bit rate hardly anything is said by the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeeringTimers:
    """Times in seconds."""

    compare_all_s: float = 60.0
    """How often all shared rooms are compared while connected."""
    quiet_s: float = 2.0
    """How long after the last pushed event a room is compared."""
    recheck_s: float = 0.2
    """How long after an exchange a room is compared again; four times longer after each that brought nothing."""
    settle_s: float = 2.0
    """How long owed events of a room wait at a contact, while an exchange may show that they are not needed."""
    ask_again_s: float = 600.0
    """After this time in one contact, the peer is asked again for what it did not have."""
    answer_s: float = 30.0
    """How long a wanted event may take."""
    reload_s: float = 5.0
    """How often, at most, unknown room tags make us look at our rooms again."""
    forget_s: float = 0.25
    """How long acknowledgements are collected before the outbox is told."""
    offer_s: tuple[float, float] = (0.02, 0.15)
    """The jitter before what came from one peer is offered to another."""
    resend_s: float = 30.0
    """How long something sent may stay unacknowledged before the next contact sends it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeeringLimits:
    """Counts and octets, per peer."""

    answer_octets: int = 200 * 1024
    """PDUs in one answer."""
    push_octets: int = 48 * 1024
    """PDUs in one pushed message."""
    window_octets: int = 256 * 1024
    """Pushed and not yet acknowledged."""
    window_count: int = 512
    unacknowledged_count: int = 4096
    """Sent in this contact without an acknowledgement, timed out or not."""
    early_octets: int = 256 * 1024
    """Messages that overtook the peer's Hello."""
    wants_waiting: int = 32
    """Unanswered `Want`s of the peer."""
    waiting_ids: int = 1024
    """Event IDs of one room that we still mean to ask for."""
    parked_max: int = 1000
    """How many more events of one room that could not be judged than such that were, in one contact, a peer may bring
    before it is asked for no more of it."""
    repeats_max: int = 32
    """Answers in a row that held nothing new, while the peer learns what is held here, before it is asked no more."""
    known_ids: int = 4096
    strange_tags: int = 4096
    serving: int = 8
    """Questions of the peer that are being answered."""
    asking: int = 64
    """Questions of ours that are open."""
    response_octets: int = 4 * 1024 * 1024
    queue_octets: int = 512 * 1024
    """Octets ready to be sent, beyond which nothing new is begun."""
    credits: float = 400.0
    """What the peer's messages may cost at once."""
    credits_per_s: float = 200.0


def timers_on(bit_rate: int | None, lan: PeeringTimers) -> PeeringTimers:
    """The times on a link of so many bits per second (None: fast): what is said by the clock is said rarely, and an
    answer has the time that it takes."""
    if bit_rate is None or bit_rate >= FAST_BIT_RATE:
        return lan
    octet_s = 8 / bit_rate
    soonest, latest = lan.offer_s
    return replace(
        lan,
        compare_all_s=max(lan.compare_all_s, 7_200.0 if bit_rate >= TIMERS_BIT_RATE_MIN else 86_400.0),
        quiet_s=max(lan.quiet_s, 300.0),
        recheck_s=max(lan.recheck_s, 1_000 * octet_s),
        settle_s=max(lan.settle_s, 2_000 * octet_s),
        answer_s=max(lan.answer_s, (3 * answer_octets_on(bit_rate) + 4_000) * octet_s),
        reload_s=max(lan.reload_s, 60.0),
        offer_s=(soonest + 250 * octet_s, latest + 1_000 * octet_s),
        resend_s=max(lan.resend_s, 20_000 * octet_s),
    )


def answer_octets_on(bit_rate: int | None) -> int:
    """PDUs in one answer: what a slow link carries in a minute, so that other things have their turn."""
    most = PeeringLimits().answer_octets
    return most if bit_rate is None or bit_rate >= FAST_BIT_RATE else min(most, max(4_096, 60 * bit_rate // 8))
