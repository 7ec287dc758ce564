"""Which forward extremities a new event cites as its `prev_events`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

PREV_EVENTS_MAX: Final = 20
"""Source: server-server API, PDU format of room versions 3 and later."""


def choose_parents(
    extremities: Sequence[str], *, own_last: str | None, rng: Random, most: int = PREV_EVENTS_MAX
) -> list[str]:
    """All forward extremities, or a uniform sample of `most` of them, sorted.

    `extremities` are distinct, in an order that does not depend on chance (sorted, as the store has them): a seed then
    repeats the choice. Uniform, because whatever else could steer the choice (depth, time, sender) is claimed by an
    attacker. An extremity has no descendant, so none of those chosen is an ancestor of another. Where there are more
    than `most`, the node's own previous event `own_last` is always among them, as long as it still is an extremity: the
    node's events stay one chain. The cost does not grow with the width, but for the search for `own_last`.
    """
    if len(extremities) <= most:
        return sorted(extremities)
    if own_last is None or own_last not in extremities:
        return sorted(rng.sample(extremities, most))
    others = [event_id for event_id in extremities if event_id != own_last]
    return sorted([own_last, *rng.sample(others, most - 1)])
