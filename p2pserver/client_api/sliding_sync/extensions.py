"""The extensions: what is told beside the rooms. Source: MSC3884, MSC3885, MSC3959, MSC3960, MSC3961."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.client_api.sliding_sync.request import ToDevice
from p2pserver.client_api.sliding_sync.scope import SlidingScope
from p2pserver.store.account_data import AccountData, room_account_data
from p2pserver.store.device_lists import device_list_changes
from p2pserver.store.one_time_keys import otk_changed_since, otk_counts, unused_fallback
from p2pserver.store.receipts import Receipt, own_receipts, receipt_contents, receipts_of_room
from p2pserver.store.to_device import to_device_since


def to_device(scope: SlidingScope, asked: ToDevice) -> tuple[dict[str, Any], bool]:
    """(the section, whether it holds messages). Its token is its own: messages go when that comes back."""
    since = 0 if asked.since is None or asked.since > scope.upto else asked.since
    found = to_device_since(
        scope.tx, scope.user_id, scope.requester.device_id, since, scope.upto, limit=asked.limit + 1
    )
    shown = found[: asked.limit]
    upto = shown[-1][0] if len(found) > asked.limit else scope.upto
    return {"next_batch": str(upto), "events": [message for _, message in shown]}, bool(shown)


def e2ee(scope: SlidingScope) -> tuple[dict[str, Any], bool]:
    """(the section, whether there is anything new in it). The counts are always there: left out means unchanged here,
    and none in `/v3/sync`."""
    device = (scope.user_id, scope.requester.device_id)
    body: dict[str, Any] = {
        "device_one_time_keys_count": otk_counts(scope.tx, *device),
        "device_unused_fallback_key_types": unused_fallback(scope.tx, *device),
    }
    if scope.since is None:
        return body, True
    changed, left = device_list_changes(scope.tx, scope.user_id, scope.since, scope.upto)
    if changed or left:
        body["device_lists"] = {"changed": changed, "left": left}
    return body, bool(changed or left) or otk_changed_since(scope.tx, *device, scope.since)


def shown_account_data(data: list[AccountData]) -> list[dict[str, Any]]:
    return [{"type": entry.type, "content": entry.content} for entry in data]


def rooms_account_data(scope: SlidingScope, due: Mapping[str, int | None]) -> dict[str, list[dict[str, Any]]]:
    """`due`: the rooms to look at, each with the position up to which the client knows it, None for nothing."""
    found = {}
    for room_id, since in due.items():
        above = -1 if since is None else since
        data = room_account_data(scope.tx, scope.user_id, room_id, above=above, upto=scope.upto)
        if data:
            found[room_id] = shown_account_data(data)
    return found


def rooms_receipts(
    scope: SlidingScope, due: Mapping[str, int | None], timelines: Mapping[str, frozenset[str]]
) -> dict[str, dict[str, Any]]:
    """An `m.receipt` event by room. Of a room that is new to the client, of which there may be thousands: those at the
    events in `timelines`, and the user's own."""
    found = {}
    for room_id, since in due.items():
        if since is None:
            receipts = _first_receipts(scope, room_id, timelines.get(room_id, frozenset()))
        else:
            receipts = receipts_of_room(scope.tx, room_id, scope.user_id, above=since, upto=scope.upto)
        contents = receipt_contents([receipt for receipt in receipts if receipt.user_id not in scope.ignored])
        if contents:
            found[room_id] = {"type": "m.receipt", "room_id": room_id, "content": contents[0]}
    return found


def _first_receipts(scope: SlidingScope, room_id: str, event_ids: frozenset[str]) -> list[Receipt]:
    receipts = receipts_of_room(scope.tx, room_id, scope.user_id, above=-1, upto=scope.upto) if event_ids else []
    shown = [receipt for receipt in receipts if receipt.event_id in event_ids and receipt.user_id != scope.user_id]
    return [*shown, *(receipt for receipt, _ in own_receipts(scope.tx, room_id, scope.user_id))]


def rooms_typing(scope: SlidingScope, due: Mapping[str, int | None]) -> dict[str, dict[str, Any]]:
    """An `m.typing` event by room, where that changed."""
    found = {}
    for room_id, since in due.items():
        users = [user_id for user_id in scope.live.typing_now.get(room_id, ()) if user_id not in scope.ignored]
        if users or since is not None:
            found[room_id] = {"type": "m.typing", "room_id": room_id, "content": {"user_ids": users}}
    return found
