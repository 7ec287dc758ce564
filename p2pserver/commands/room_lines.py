"""What people read of `p2pserver room …`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from p2pserver.rooms.verification import Verified


def lines_of_verification(found: Verified, seconds: float) -> Iterator[str]:
    """One line if all is well, one for each claim that nobody can check; else the first difference."""
    if found.difference is not None:
        first = found.difference
        at = "" if first.event_id is None else f" at {first.event_id}"
        yield f"{found.room_id} is not what its events say{at}"
        yield f"  what       {first.what}"
        yield f"  stored     {first.stored}"
        yield f"  should be  {first.expected}"
        yield f"{found.events:,} events before it were found right, in {seconds:.1f} s"
        return
    facts = [
        f"{found.state_events:,} state events",
        f"{found.merges:,} merges",
        f"{found.rejected:,} rejected",
        f"{found.soft_failed:,} soft-failed",
        f"{found.redacted:,} redacted",
    ]
    yield f"{found.room_id} is what its {found.events:,} events say ({', '.join(facts)}), checked in {seconds:.1f} s"
    if found.sec is not None:
        yield f"SEC digest {found.sec}, the same on every node that holds these events"
    if found.soft_failed:
        yield f"not checked: whether {found.soft_failed:,} soft-failed events came too late, as only their arrival says"
    if found.on_claims or found.claims:
        claimed_by = Counter(found.claims)
        yield f"not checked: what is claimed of {len(found.claims):,} gaps; {found.on_claims:,} events are judged by it"
        for server, count in claimed_by.most_common():
            yield f"  {count:,} claimed by {server}"
