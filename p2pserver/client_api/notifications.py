"""`GET /notifications`: the events that the user's push rules notify him of. Source: client-server API, "Listing
Notifications"."""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_events
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.unread import thread_of
from p2pserver.store.push_events import newest_push_events
from p2pserver.store.tx import Tx

routes = Routes()

PAGE_MAX = 100
EXAMINED_MAX = 2_000
"""How many events one request looks at, whatever the rules leave out."""


@routes.route("GET", "/notifications")
async def get_notifications(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /notifications`, the newest first, by the rules as they are now."""
    requester = request.requester
    user_id = requester.user_id
    limit = max(1, request.query_integer("limit", default=20, most=PAGE_MAX))
    only_highlights = request.query.get("only") == "highlight"
    begin = StreamToken.parse(request.query["from"]).position if request.query.get("from") else None

    def query(tx: Tx) -> dict[str, Any]:
        reached = tx.position() if begin is None else min(begin, tx.position())
        found: list[dict[str, Any]] = []
        looked_at = 0
        more = False
        for event in newest_push_events(tx, user_id, upto=reached, most=EXAMINED_MAX):
            if len(found) == limit:
                more = True
                break
            looked_at += 1
            reached = event.position - 1
            verdict = api.unread.judge(tx, user_id, event)
            if verdict is None or not verdict.notify or (only_highlights and not verdict.highlight):
                continue
            held = api.rooms.stored(tx, event.event_id)
            if held is None or not api.rooms.visible_to(tx, user_id, [held])[0]:
                continue
            shown = client_events(tx, api.rooms, [held], requester=requester, wall_ms=api.wall_ms())[0]
            read = api.unread.read_up_to(tx, user_id, event.room_id)
            found.append(
                {
                    "actions": list(verdict.actions),
                    "event": shown,
                    "read": read.covers(event.position, thread_of(tx, event.raw)),
                    "room_id": event.room_id,
                    "ts": held.pdu.origin_server_ts,
                }
            )
        answer: dict[str, Any] = {"notifications": found}
        if more or looked_at == EXAMINED_MAX:
            answer["next_token"] = str(StreamToken(reached))
        return answer

    return await api.database.read(query)
