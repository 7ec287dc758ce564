"""What the tests of rooms and sync do again and again: make rooms, talk, sync, read what came."""

import itertools
import json
from typing import Any
from urllib.parse import quote

from tests.client_api.harness import Answer, Client

_numbers = itertools.count(1)


def at(room_id: str, *rest: str) -> str:
    """`/rooms/{room_id}/...` with each segment percent-encoded."""
    return "/".join(["/rooms", *(quote(segment, safe="") for segment in (room_id, *rest))])


async def new_room(client: Client, **fields: Any) -> str:
    room_id: str = (await client.post("/createRoom", fields))["room_id"]
    return room_id


async def join(client: Client, room_id: str) -> Answer:
    answer = await client.post(at(room_id, "join"))
    assert answer.status == 200, answer.body
    return answer


async def invite_and_join(host: Client, room_id: str, *guests: Client) -> None:
    for guest in guests:
        assert (await host.post(at(room_id, "invite"), {"user_id": guest.user_id})).status == 200
        await join(guest, room_id)


async def say(client: Client, room_id: str, text: str, *, txn: str | None = None) -> str:
    """Sends a text and returns its event ID."""
    path = at(room_id, "send", "m.room.message", txn or f"t{next(_numbers)}")
    event_id: str = (await client.put(path, {"msgtype": "m.text", "body": text}))["event_id"]
    return event_id


async def read(client: Client, room_id: str, event_id: str, kind: str = "m.read", **body: Any) -> None:
    answer = await client.post(at(room_id, "receipt", kind, event_id), body)
    assert answer.status == 200, answer.body


async def set_state(client: Client, room_id: str, event_type: str, content: dict[str, Any], key: str = "") -> str:
    path = at(room_id, "state", event_type, key) if key else at(room_id, "state", event_type)
    event_id: str = (await client.put(path, content))["event_id"]
    return event_id


async def sync(client: Client, since: str | None = None, *, wait_ms: int = 0, **query: Any) -> dict[str, Any]:
    """One `/sync`; a filter may be given as an object."""
    if isinstance(query.get("filter"), dict):
        query["filter"] = json.dumps(query["filter"])
    if since is not None:
        query["since"] = since
    answer = await client.get("/sync", timeout=wait_ms, **query)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def joined(answer: dict[str, Any], room_id: str) -> dict[str, Any]:
    room: dict[str, Any] = answer["rooms"]["join"][room_id]
    return room


def texts(events: list[dict[str, Any]]) -> list[str]:
    """The bodies of the messages among these events."""
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message" and event["content"]]


def slots(events: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(event["type"], event["state_key"]): event for event in events if "state_key" in event}


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


class Reader:
    """A plain client: keeps the state and the timeline of its rooms by what `/sync` says, and fills gaps by paging."""

    def __init__(self, client: Client, **query: Any) -> None:
        self.client = client
        self.query = query
        self.token: str | None = None
        self.state: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.timeline: dict[str, list[str]] = {}
        self.repeated: list[str] = []

    async def sync(self) -> dict[str, Any]:
        answer = await sync(self.client, self.token, **self.query)
        before, self.token = self.token, answer["next_batch"]
        for room_id, room in answer["rooms"]["join"].items():
            state = self.state.setdefault(room_id, {})
            state.update(slots(room["state"]["events"]))
            state.update(slots(room["timeline"]["events"]))
            known = self.timeline.setdefault(room_id, [])
            new = ids(room["timeline"]["events"])
            if room["timeline"]["limited"] and before is not None:
                new = [*await self._older(room_id, room["timeline"]["prev_batch"], before), *new]
            self.repeated += [event_id for event_id in new if event_id in known]
            known += new
        return answer

    async def _older(self, room_id: str, start: str, end: str) -> list[str]:
        found: list[str] = []
        token: str | None = start
        while token is not None:
            page = await self.client.get(at(room_id, "messages"), **{"from": token, "to": end, "dir": "b", "limit": 3})
            assert page.status == 200, page.body
            found += ids(page.body["chunk"])
            token = page.body.get("end")
        return found[::-1]

    def name(self, room_id: str) -> str | None:
        event = self.state.get(room_id, {}).get(("m.room.name", ""))
        return None if event is None else event["content"].get("name")


async def history(
    client: Client, room_id: str, *, direction: str = "b", limit: int = 7, **query: Any
) -> list[dict[str, Any]]:
    """Everything that `/messages` gives, page by page."""
    found: list[dict[str, Any]] = []
    token: str | None = None
    for _ in range(1000):
        start = {} if token is None else {"from": token}
        page = await client.get(at(room_id, "messages"), dir=direction, limit=limit, **start, **query)
        assert page.status == 200, page.body
        found += page.body["chunk"]
        token = page.body.get("end")
        if token is None:
            return found
    raise AssertionError("there is no end of it")
