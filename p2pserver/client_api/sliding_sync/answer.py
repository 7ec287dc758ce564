"""One sliding sync answer, out of one snapshot of the database, and what its client will know when it has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pserver.client_api.sliding_sync import extensions
from p2pserver.client_api.sliding_sync.connections import Position, RoomTold
from p2pserver.client_api.sliding_sync.request import Extensions, RoomConfig, RoomExtension, SlidingRequest
from p2pserver.client_api.sliding_sync.room_index import RoomIndex, Selection, changed_rooms
from p2pserver.client_api.sliding_sync.rooms import RoomResult, room_result
from p2pserver.client_api.sliding_sync.scope import SlidingScope
from p2pserver.store.account_data import account_data_since
from p2pserver.store.memberships import local_membership
from p2pserver.store.own_rooms import memberships_of
from p2pserver.store.receipts import rooms_read_by, rooms_with_receipts


@dataclass(frozen=True, slots=True)
class ListResult:
    """How many rooms there are in a list, and the IDs of those in each of its windows."""

    count: int
    windows: list[tuple[tuple[int, int], list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingAnswer:
    """`position`: what the client knows when it has the answer."""

    lists: Mapping[str, ListResult]
    rooms: Mapping[str, RoomResult]
    extensions: Mapping[str, Any]
    position: Position
    eventful: bool
    """Whether the client learns anything from it; if not, it rather waits."""
    topics: frozenset[str]


@dataclass(slots=True)
class _Interest:
    """Why a room is in the answer: the lists in whose window it is, and whether it is subscribed to."""

    lists: list[str] = field(default_factory=list)
    subscribed: bool = False


def sliding_answer(scope: SlidingScope, request: SlidingRequest, before: Position, index: RoomIndex) -> SlidingAnswer:
    """The answer to `request` of a client that knows `before`; `index` is up to date."""
    changed = _changed(scope, before, index)
    lists, interests = _lists(scope, request, before, index, changed)
    configs = _configs(request, interests)
    relevant = frozenset(configs)
    due, events_told = before.events.advance(relevant, changed, before.stream)
    due |= dict.fromkeys(_asked_anew(scope, before, configs) - due.keys(), before.stream)
    results, told_rooms = _rooms(scope, before, configs, interests, due, index)
    if request.wants_counts:
        _add_counts(scope, results, interests, index)
    extras, after = _extensions(scope, request.extensions, before, interests, results)
    counts = {key: shown.count for key, shown in lists.items()}
    position = replace(
        after,
        stream=scope.upto,
        live=scope.live.serial,
        rooms=told_rooms,
        events=events_told,
        counts=counts,
    )
    eventful = bool(results) or extras.eventful or counts != dict(before.counts)
    topics = frozenset((f"user:{scope.user_id}", *(f"room:{room_id}" for room_id in index.joined)))
    return SlidingAnswer(
        lists=lists, rooms=results, extensions=extras.body, position=position, eventful=eventful, topics=topics
    )


def _changed(scope: SlidingScope, before: Position, index: RoomIndex) -> set[str]:
    """The rooms in which something happened since the last answer: in them, or with the user himself."""
    if scope.since is None:
        return set()
    changed = changed_rooms(scope.tx, index.joined, above=scope.since, upto=scope.upto)
    changed.update(own.room_id for own in memberships_of(scope.tx, scope.user_id, above=scope.since))
    return changed


def _asked_anew(scope: SlidingScope, before: Position, configs: Mapping[str, RoomConfig]) -> set[str]:
    """The rooms that the client knows and of which it asks for something else now, or that became a direct chat."""
    differs: dict[tuple[int, int], bool] = {}
    found = set()
    for room_id, config in configs.items():
        told = before.rooms.get(room_id)
        if told is None:
            continue
        pair = (id(told.config), id(config))
        if pair not in differs:
            differs[pair] = told.config != config
        if differs[pair] or told.is_dm != (room_id in scope.dms):
            found.add(room_id)
    return found


def _lists(
    scope: SlidingScope, request: SlidingRequest, before: Position, index: RoomIndex, changed: set[str]
) -> tuple[dict[str, ListResult], dict[str, _Interest]]:
    leaving = {room_id for room_id in before.rooms if room_id in changed or room_id in before.events.behind}
    selection = Selection(scope.tx, scope.rooms, index, dms=scope.dms, ignored=scope.ignored)
    lists: dict[str, ListResult] = {}
    interests: dict[str, _Interest] = {}
    for key, asked in request.lists.items():
        room_ids = selection.select(asked.filters, leaving=leaving)
        windows = []
        for start, end in ((0, len(room_ids)),) if asked.ranges is None else asked.ranges:
            shown = room_ids[start : end + 1]
            windows.append(((start, end), shown))
            for room_id in shown:
                interest = interests.setdefault(room_id, _Interest())
                if key not in interest.lists:
                    interest.lists.append(key)
        lists[key] = ListResult(len(room_ids), windows)
    for room_id in request.subscriptions:
        facts = index.rooms.get(room_id)
        if facts is not None and (
            facts.membership in ("join", "invite", "knock")
            or room_id in before.rooms
            or facts.was_in(scope.tx, scope.rooms)
        ):
            interests.setdefault(room_id, _Interest()).subscribed = True
    return lists, interests


def _configs(request: SlidingRequest, interests: Mapping[str, _Interest]) -> dict[str, RoomConfig]:
    """What is to be sent of each room: the union over the reasons why it is there, worked out once for each mixture."""
    unions: dict[tuple[str | None, tuple[str, ...]], RoomConfig] = {}
    configs: dict[str, RoomConfig] = {}
    for room_id, interest in interests.items():
        mixture = (room_id if interest.subscribed else None, tuple(interest.lists))
        if mixture not in unions:
            several = [request.lists[key].config for key in interest.lists]
            if interest.subscribed:
                several.append(request.subscriptions[room_id])
            unions[mixture] = RoomConfig.union(several)
        configs[room_id] = unions[mixture]
    return configs


def _rooms(
    scope: SlidingScope,
    before: Position,
    configs: Mapping[str, RoomConfig],
    interests: Mapping[str, _Interest],
    due: Mapping[str, int | None],
    index: RoomIndex,
) -> tuple[dict[str, RoomResult], Mapping[str, RoomTold]]:
    results: dict[str, RoomResult] = {}
    if not due:
        return results, before.rooms
    told_rooms = dict(before.rooms)
    for room_id in sorted(due, key=lambda each: (-index.rooms[each].newest, each)):
        own = local_membership(scope.tx, scope.user_id, room_id)
        if own is None:
            continue
        result, told_rooms[room_id] = room_result(
            scope, own, configs[room_id], told=before.rooms.get(room_id), known_upto=due[room_id]
        )
        if result is not None:
            result.lists = interests[room_id].lists
            results[room_id] = result
    return results, told_rooms


def _add_counts(
    scope: SlidingScope, results: dict[str, RoomResult], interests: Mapping[str, _Interest], index: RoomIndex
) -> None:
    """The counts of unread messages: of the rooms that are told of, and where the user has read on."""
    if scope.since is not None:
        for room_id in rooms_read_by(scope.tx, scope.user_id, above=scope.since) & interests.keys():
            results.setdefault(room_id, RoomResult(membership=index.rooms[room_id].membership))
    for room_id, result in results.items():
        if result.membership == "join":
            count = scope.unread.unread(scope.tx, scope.user_id, room_id).main
            result.counts = (count.notifications, count.highlights)


@dataclass(slots=True)
class _Extras:
    body: dict[str, Any] = field(default_factory=dict)
    eventful: bool = False


def _extensions(
    scope: SlidingScope,
    asked: Extensions,
    before: Position,
    interests: Mapping[str, _Interest],
    results: Mapping[str, RoomResult],
) -> tuple[_Extras, Position]:
    """The sections of the extensions, and `before` with what they tell."""
    extras, after, since = _Extras(), before, before.stream
    if asked.to_device is not None:
        extras.body["to_device"], fresh = extensions.to_device(scope, asked.to_device)
        extras.eventful |= fresh
    if asked.e2ee:
        extras.body["e2ee"], fresh = extensions.e2ee(scope)
        extras.eventful |= fresh
    if asked.account_data is not None:
        known = since if before.has_account_data else -1
        data = account_data_since(scope.tx, scope.user_id, known, scope.upto)
        changed = {entry.room_id for entry in data if entry.room_id is not None}
        due, told = before.account_data.advance(_among(asked.account_data, interests), changed, since)
        by_room = extensions.rooms_account_data(scope, due)
        globally = extensions.shown_account_data([entry for entry in data if entry.room_id is None])
        extras.body["account_data"] = {"global": globally, "rooms": by_room}
        extras.eventful |= bool(globally or by_room)
        after = replace(after, account_data=told, has_account_data=True)
    if asked.receipts is not None:
        changed = rooms_with_receipts(scope.tx, scope.user_id, above=since, upto=scope.upto) if scope.since else set()
        due, told = before.receipts.advance(_among(asked.receipts, interests), changed, since)
        timelines = {
            room_id: frozenset(event["event_id"] for event in result.timeline or ())
            for room_id, result in results.items()
        }
        receipts = extensions.rooms_receipts(scope, due, timelines)
        extras.body["receipts"] = {"rooms": receipts}
        extras.eventful |= bool(receipts)
        after = replace(after, receipts=told)
    if asked.typing is not None:
        due, told = before.typing.advance(_among(asked.typing, interests), scope.live.typing, since)
        typing = extensions.rooms_typing(scope, due)
        extras.body["typing"] = {"rooms": typing}
        extras.eventful |= bool(typing)
        after = replace(after, typing=told)
    return extras, after


def _among(asked: RoomExtension, interests: Mapping[str, _Interest]) -> frozenset[str]:
    """The rooms in the answer's windows that the extension is to tell of."""
    return frozenset(
        room_id
        for room_id, interest in interests.items()
        if (interest.subscribed and (asked.rooms is None or room_id in asked.rooms))
        or (interest.lists and (asked.lists is None or not asked.lists.isdisjoint(interest.lists)))
    )
