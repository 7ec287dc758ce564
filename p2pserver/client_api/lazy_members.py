"""Which members' events a device already has, so that lazy loading does not send them again and again.

What is remembered belongs to one token: it counts only if the client comes back with the token of the answer in which
the events were sent. A lost answer, a second client on the same token or a restart just make the events come again.
Source: client-server API, "Lazy-loading room members".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

DEVICES_MAX = 64
MEMBERS_PER_DEVICE_MAX = 4096

SentMembers = dict[tuple[str, str], str]
"""(room ID, user ID) to the ID of the member event that was sent."""


class LazyMembers:
    """The memory for all devices, bounded: the device longest absent is forgotten."""

    def __init__(self) -> None:
        self._devices: OrderedDict[tuple[str, str], tuple[str, SentMembers]] = OrderedDict()

    def sent(self, user_id: str, device_id: str, since: str | None) -> SentMembers:
        """What the device was sent up to the token `since`."""
        token, sent = self._devices.get((user_id, device_id), (None, {}))
        return sent if since is not None and token == since else {}

    def remember(
        self,
        user_id: str,
        device_id: str,
        next_batch: str,
        sent: SentMembers,
        more: Iterable[tuple[tuple[str, str], str]],
    ) -> None:
        """The answer that ends in `next_batch` was built on `sent` and holds `more`."""
        known = {**sent, **dict(more)}
        while len(known) > MEMBERS_PER_DEVICE_MAX:
            del known[next(iter(known))]
        self._devices[user_id, device_id] = (next_batch, known)
        self._devices.move_to_end((user_id, device_id))
        while len(self._devices) > DEVICES_MAX:
            self._devices.popitem(last=False)
