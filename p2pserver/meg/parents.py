"""Which forward extremities a new event cites as its `prev_events`."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Final

PREV_EVENTS_MAX: Final = 20
"""Source: server-server API, PDU format of room versions 3 and later."""


def choose_parents(
    extremities: Collection[str], *, own_last: str | None, rng: random.Random, most: int = PREV_EVENTS_MAX
) -> list[str]:
    """All forward extremities, or a uniform sample of `most` of them, sorted.

    Uniform, because whatever else could steer the choice (depth, time, sender) is claimed by an attacker. An extremity
    has no descendant, so none of those chosen is an ancestor of another. Where there are more than `most`, the node's
    own previous event `own_last` is always among them, as long as it still is an extremity: the node's events stay one
    chain.
    """
    candidates = sorted(set(extremities))
    if len(candidates) <= most:
        return candidates
    if own_last is None or own_last not in extremities:
        return sorted(rng.sample(candidates, most))
    others = [event_id for event_id in candidates if event_id != own_last]
    return sorted([own_last, *rng.sample(others, most - 1)])
