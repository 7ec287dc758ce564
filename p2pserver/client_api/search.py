"""`POST /search`: messages, room names and topics by their words, in the rooms that the user is or was in.

Every event that is found is judged by the room's history visibility before anything is told of it, its number included.
Encrypted messages cannot be found: their words are not here. Source: client-server API, "Server Side Search".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.event_filter import EventFilter
from p2pserver.client_api.room_access import state_at, view_of
from p2pserver.client_api.rooms_read import surroundings, tokens_around
from p2pserver.errors import BadJson, Forbidden, InvalidParam
from p2pserver.http_api.body_fields import (
    optional_boolean,
    optional_integer,
    optional_list,
    optional_object,
    optional_string,
    required_object,
    required_string,
)
from p2pserver.http_api.routing import ApiRequest, Requester, Routes
from p2pserver.identifiers import is_media_uri
from p2pserver.store.events import StoredEvent
from p2pserver.store.own_rooms import memberships_of
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.search_index import KEYS, Found, is_behind, search, take_in, words_of
from p2pserver.store.tx import Tx

LIMIT_MAX = 100
CONTEXT_DEFAULT, CONTEXT_MAX = 5, 20
EXAMINED_MAX = 500
"""How many events that match one request looks at; the next one goes on behind them."""
TOKEN_DIGITS_MAX = 9

routes = Routes()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The `room_events` of a request, checked. Raises: BadJson, InvalidParam, MissingParam."""

    words: list[str]
    keys: list[str]
    event_filter: EventFilter
    limit: int
    recent: bool
    groupings: list[str]
    context: tuple[int, int] | None
    """How many events to show before and after each."""
    with_profiles: bool
    with_state: bool
    skip: int

    @classmethod
    def of(cls, request: ApiRequest) -> _Question:
        body = required_object(required_object(request.body, "search_categories"), "room_events")
        keys = optional_list(body, "keys") or list(KEYS.values())
        if not set(map(str, keys)) <= set(KEYS.values()):
            raise InvalidParam("keys are content.body, content.name and content.topic")
        order = optional_string(body, "order_by") or "rank"
        if order not in ("rank", "recent"):
            raise InvalidParam("order_by is neither rank nor recent")
        chosen = optional_object(body, "filter")
        context = optional_object(body, "event_context")
        sizes = [
            optional_integer(context, name, default=CONTEXT_DEFAULT, most=CONTEXT_MAX)
            for name in ("before_limit", "after_limit")
        ]
        token = request.query.get("next_batch", "0")
        if not (token.isascii() and token.isdigit() and len(token) <= TOKEN_DIGITS_MAX):
            raise InvalidParam("next_batch is not a token of this server")
        event_filter = EventFilter.of(chosen)
        return cls(
            words=words_of(required_string(body, "search_term")),
            keys=keys,
            event_filter=event_filter,
            limit=max(1, min(event_filter.limit, LIMIT_MAX)),
            recent=order == "recent",
            groupings=[_group_key(entry) for entry in optional_list(optional_object(body, "groupings"), "group_by")],
            context=(sizes[0], sizes[1]) if "event_context" in body else None,
            with_profiles=optional_boolean(context, "include_profile"),
            with_state=optional_boolean(body, "include_state"),
            skip=int(token),
        )


def _group_key(entry: object) -> str:
    key = entry.get("key") if isinstance(entry, Mapping) else None
    if key not in ("room_id", "sender"):
        raise BadJson("results are grouped by room_id or sender")
    return str(key)


@routes.route("POST", "/search")
async def search_events(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    question, requester = _Question.of(request), request.requester

    def query(tx: Tx) -> dict[str, Any]:
        hits, count, more = _visible_hits(api, tx, requester.user_id, question)
        events = [event for _, event in hits]
        shown = client_events(tx, api.rooms, events, requester=requester, wall_ms=api.wall_ms())
        results = []
        for (found, event), client_form in zip(hits, shown, strict=True):
            result: dict[str, Any] = {"rank": found.rank, "result": client_form}
            if question.context is not None:
                result["context"] = _context(api, tx, requester, event, question)
            results.append(result)
        answer: dict[str, Any] = {
            "count": count,
            "highlights": question.words,
            "results": results,
        }
        if question.groupings:
            answer["groups"] = {key: _groups(shown, key) for key in question.groupings}
        if question.with_state:
            answer["state"] = _states(api, tx, requester.user_id, events)
        if more is not None:
            answer["next_batch"] = str(more)
        return {"search_categories": {"room_events": answer}}

    if await api.database.read(is_behind):
        await api.database.write(take_in)
    return await api.database.read(query)


def _visible_hits(
    api: ClientApi, tx: Tx, user_id: str, question: _Question
) -> tuple[list[tuple[Found, StoredEvent]], int, int | None]:
    """One page of what the user may see, how many there are at least, and where the next page begins."""
    rooms = [
        row.room_id
        for row in memberships_of(tx, user_id)
        if row.membership in ("join", "leave", "ban")
        and not row.forgotten
        and question.event_filter.wants_room(row.room_id)
    ]
    found = search(
        tx,
        question.words,
        rooms=rooms,
        keys=question.keys,
        recent=question.recent,
        most=EXAMINED_MAX + 1,
        skip=question.skip,
    )
    ignored = ignored_users(tx, user_id)
    hits: list[tuple[Found, StoredEvent]] = []
    count, more = 0, question.skip + EXAMINED_MAX if len(found) > EXAMINED_MAX else None
    for number, each in enumerate(found[:EXAMINED_MAX]):
        event = api.rooms.stored(tx, each.event_id)
        if event is None or event.pdu.sender in ignored or not api.rooms.visible_to(tx, user_id, [event])[0]:
            continue
        if not question.event_filter.wants(event.pdu.type, event.pdu.sender, event.pdu.content):
            continue
        count += 1
        if len(hits) < question.limit:
            hits.append((each, event))
        elif len(hits) == question.limit and count == question.limit + 1:
            more = question.skip + number
    return hits, count, more


def _context(api: ClientApi, tx: Tx, requester: Requester, event: StoredEvent, question: _Question) -> dict[str, Any]:
    assert question.context is not None
    before, after = surroundings(
        tx, api.rooms, event, requester.user_id, limits=question.context, event_filter=EventFilter()
    )
    context: dict[str, Any] = {
        **tokens_around(event, before, after),
        "events_before": client_events(tx, api.rooms, before.events, requester=requester, wall_ms=api.wall_ms()),
        "events_after": client_events(tx, api.rooms, after.events, requester=requester, wall_ms=api.wall_ms()),
    }
    if question.with_profiles:
        context["profile_info"] = _profiles(api, tx, [event, *before.events, *after.events])
    return context


def _profiles(api: ClientApi, tx: Tx, events: Sequence[StoredEvent]) -> dict[str, dict[str, Any]]:
    """What the senders were called when they sent."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        sender = event.pdu.sender
        if sender in found:
            continue
        event_id = api.rooms.state_after(tx, event.pdu.event_id).get(("m.room.member", sender))
        content = {} if event_id is None else api.rooms.event(tx, event_id).content
        name, picture = content.get("displayname"), content.get("avatar_url")
        found[sender] = {
            **({"displayname": name} if isinstance(name, str) else {}),
            **({"avatar_url": picture} if is_media_uri(picture) else {}),
        }
    return found


def _groups(shown: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """The results of this page by room or sender, the group of the best result first."""
    groups: dict[str, dict[str, Any]] = {}
    for event in shown:
        group = groups.setdefault(event[key], {"results": [], "order": len(groups)})
        group["results"].append(event["event_id"])
    return groups


def _states(api: ClientApi, tx: Tx, user_id: str, events: Sequence[StoredEvent]) -> dict[str, list[dict[str, Any]]]:
    """The state of each room in the results, as the user may see it."""
    states: dict[str, list[dict[str, Any]]] = {}
    for room_id in dict.fromkeys(event.pdu.room_id for event in events):
        try:
            view = view_of(tx, api.rooms, user_id, room_id)
        except Forbidden:
            continue
        state = state_at(tx, api.rooms, room_id, view.position)
        states[room_id] = [
            client_event(api.rooms.event(tx, event_id), wall_ms=api.wall_ms()) for event_id in state.values()
        ]
    return states
