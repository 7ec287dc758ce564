"""The auth rules of all room versions: what an event must cite, and what a state of the room lets it do.

An event is checked three times with the same rules: against its own auth events and against the state before it (each
makes it rejected), and against the current state (which makes it soft-failed). The first two look only at the event's
ancestors, which its hash fixes, so that every server comes to the same verdict.

Source: room versions 1 to 12, "Authorization rules"; server-server API, "Auth events selection".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.meg.auth_state import AuthState, StateOfEvents
from p2pserver.meg.membership import check_membership, level_to_ban
from p2pserver.meg.power import Level, PowerLevels, check_power_levels
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, NotAllowed, StateSlot, member_slot

__all__ = [
    "NotAllowed",
    "auth_slots",
    "auth_state_of",
    "authorize",
    "authorize_in",
    "check_auth_events",
    "create_id_of",
    "state_of_auth_events",
]


def create_id_of(room_id: str) -> str:
    """The event ID of the create event of a room whose ID is its hash (version 12)."""
    return "$" + room_id[1:]


def auth_slots(
    *, event_type: str, sender: str, state_key: str | None, content: Mapping[str, Any], rules: RoomVersionRules
) -> list[StateSlot]:
    """The slots of the room state that give an event its permission, each once: what its `auth_events` are taken from.

    In version 12 the create event is not among them: the room ID stands for it. Source: "Auth events selection".
    """
    if event_type == "m.room.create":
        return []
    slots = [] if rules.room_id_is_create_hash else [CREATE]
    slots += [POWER_LEVELS, member_slot(sender)]
    if event_type == "m.room.member" and state_key is not None:
        membership = content.get("membership")
        if state_key != sender:
            slots.append(member_slot(state_key))
        if membership in ("join", "invite", "knock"):
            slots.append(JOIN_RULES)
        if membership == "invite":
            invite = content.get("third_party_invite")
            signed = invite.get("signed") if isinstance(invite, Mapping) else None
            token = signed.get("token") if isinstance(signed, Mapping) else None
            if isinstance(token, str):
                slots.append(("m.room.third_party_invite", token))
        authorising_user = content.get("join_authorised_via_users_server") if rules.restricted_joins else None
        if membership == "join" and isinstance(authorising_user, str) and authorising_user not in (sender, state_key):
            slots.append(member_slot(authorising_user))
    return slots


def auth_slots_of(event: Pdu) -> list[StateSlot]:
    return auth_slots(
        event_type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=event.content,
        rules=event.rules,
    )


def state_of_auth_events(cited: Sequence[Pdu], create: Pdu | None) -> dict[StateSlot, Pdu]:
    """The state that an event's auth events make, with the create event: what `authorize` judges it by first."""
    state = {} if create is None else {CREATE: create}
    state.update((event.state_slot, event) for event in cited if event.state_slot is not None)
    return state


def check_auth_events(event: Pdu, cited: Sequence[Pdu], *, rejected: Collection[str], create: Pdu | None) -> None:
    """The rules that look only at the event and at the events it cites (rules 1 to 3; before version 12, 1 and 2).

    `cited` are the events that `event.auth_events` names, `rejected` those event IDs among them that were rejected,
    `create` the accepted create event of the room (None as long as there is none).
    Raises: NotAllowed.
    """
    if event.type == "m.room.create":
        check_create(event, create)
        return
    if not event.prev_events:
        raise NotAllowed("only a create event has no prev_events")
    check_room(event, create)
    check_citations(event, cited)
    check_none_rejected(event, rejected)
    check_same_room(event, cited)


def check_create(event: Pdu, known: Pdu | None) -> None:
    """Rule 1. A second create event of a room is refused: the first accepted one is the room's for ever."""
    if event.prev_events:
        raise NotAllowed("a create event has no prev_events")
    if event.state_key != "":
        raise NotAllowed("a create event has an empty state_key")
    if known is not None and known.event_id != event.event_id:
        raise NotAllowed("the room has another create event")
    if event.rules.room_id_is_create_hash:
        if "room_id" in event.raw:
            raise NotAllowed("a create event of version 12 has no room_id")
    elif server_of(event.room_id) != server_of(event.sender):
        raise NotAllowed("the room ID is not of the sender's server")
    if event.content.get("room_version", "1") != event.rules.version:
        raise NotAllowed("the room version is not known, or not this room's")
    if event.rules.creator_in_content and "creator" not in event.content:
        raise NotAllowed("the create event names no creator")
    if event.rules.creators_privileged and "additional_creators" in event.content:
        additional = event.content["additional_creators"]
        if not isinstance(additional, list) or not all(map(is_user_id, additional)):
            raise NotAllowed("additional_creators is not a list of user IDs")


def check_room(event: Pdu, create: Pdu | None) -> None:
    """Rule 2 of version 12 (the room ID names the accepted create event), and its like before."""
    if create is None:
        raise NotAllowed("the room has no accepted create event")
    if event.room_id != create.room_id:
        raise NotAllowed("the event is of another room than the create event")
    if event.rules.room_id_is_create_hash and create.event_id != create_id_of(event.room_id):
        raise NotAllowed("the room ID is not that of the create event")
    if not event.rules.room_id_is_create_hash and create.event_id not in event.auth_events:
        raise NotAllowed("the create event is not among the auth events")


def check_citations(event: Pdu, cited: Sequence[Pdu]) -> None:
    """Every cited event is there, once, and is one that the auth events selection asks for."""
    if {other.event_id for other in cited} != set(event.auth_events):
        raise NotAllowed("an auth event is not known")
    if len(set(event.auth_events)) != len(event.auth_events):
        raise NotAllowed("an auth event is cited twice")
    wanted = set(auth_slots_of(event))
    filled: set[StateSlot] = set()
    for other in cited:
        slot = other.state_slot
        if slot is None or slot not in wanted:
            raise NotAllowed(f"{other.event_id} is not one of the auth events this event needs")
        if slot in filled:
            raise NotAllowed(f"two auth events for {slot}")
        filled.add(slot)


def check_none_rejected(event: Pdu, rejected: Collection[str]) -> None:
    if any(event_id in rejected for event_id in event.auth_events):
        raise NotAllowed("an auth event was rejected")


def check_same_room(event: Pdu, cited: Sequence[Pdu]) -> None:
    if any(other.room_id != event.room_id for other in cited):
        raise NotAllowed("an auth event is of another room")


def authorize(
    event: Pdu,
    state: Mapping[StateSlot, Pdu],
    *,
    power_levels_of: Callable[[Pdu, Pdu | None], PowerLevels] = PowerLevels.of,
) -> None:
    """The auth rules that look at a state of the room (rule 4 and up; before version 12, 3 and up).

    `state` needs the create event, in version 12 too, and of the rest only the `auth_slots` of the event.
    `power_levels_of` is for callers that judge many events by the same power levels and keep them.
    Raises: NotAllowed.
    """
    authorize_in(event, auth_state_of(state, power_levels_of=power_levels_of))


def auth_state_of(
    state: Mapping[StateSlot, Pdu], *, power_levels_of: Callable[[Pdu, Pdu | None], PowerLevels] = PowerLevels.of
) -> AuthState | None:
    """What `authorize_in` asks; None, if the state has no create event."""
    create = state.get(CREATE)
    if create is None:
        return None
    return StateOfEvents(events=state, create=create, power=power_levels_of(create, state.get(POWER_LEVELS)))


def authorize_in(event: Pdu, view: AuthState | None) -> None:
    """`authorize`, for callers that judge many events by the same state. Raises: NotAllowed."""
    event_type = event.type
    if event_type == "m.room.create":
        check_create(event, None if view is None else view.create)
        return
    if view is None:
        raise NotAllowed("the state has no create event")
    check_federation(event, view)
    if event_type == "m.room.member":
        check_membership(event, view)
        return
    if event_type == "m.room.aliases" and event.rules.aliases_authorized:
        check_aliases(event)
        return
    check_sender_joined(event, view)
    if event_type == "m.room.third_party_invite":
        check_may_offer_invite(event, view)
        return
    check_level(event, view)
    check_state_key(event)
    if event_type == "m.room.power_levels":
        check_power_levels(event, view.levels_of(event), view.event(POWER_LEVELS), view.power)
    elif event_type == "m.room.redaction" and event.rules.redactions_authorized:
        check_redaction(event, view)


JUDGED_ALONE: Final = frozenset(
    {
        "m.room.aliases",
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.redaction",
        "m.room.third_party_invite",
    }
)
"""The types with rules of their own."""


def case_of(event: Pdu) -> tuple[str, str, bool] | None:
    """All that `authorize` looks at in an event, for those of which many are alike; None for the others.

    These are state events of types without rules of their own, and joins of a user by himself other than the first one
    of a room, which comes right after the create event that it cites.
    """
    if event.type not in JUDGED_ALONE:
        return (event.type, event.sender, is_state_key_of_another(event)) if event.is_state else None
    if event.type == "m.room.member" and event.state_key == event.sender and event.content.get("membership") == "join":
        parent = event.prev_events[0] if len(event.prev_events) == 1 else None
        is_plain = not event.rules.restricted_joins or "join_authorised_via_users_server" not in event.content
        if is_plain and parent not in event.auth_events and parent != create_id_of(event.room_id):
            return event.type, event.server, False
    return None


def is_ban_of_another(event: Pdu) -> bool:
    """Whether an event bans somebody else. Of its target `authorize` looks at nothing but the level."""
    return (
        event.type == "m.room.member"
        and event.content.get("membership") == "ban"
        and event.state_key != event.sender
        and is_user_id(event.state_key)
    )


def level_below_which_bans(event: Pdu, view: AuthState | None) -> Level:
    """Where the levels begin that protect from a ban by this event's sender (`is_ban_of_another`).

    Raises: NotAllowed, where nobody can be banned by it.
    """
    if view is None:
        raise NotAllowed("the state has no create event")
    check_federation(event, view)
    return level_to_ban(event.sender, view)


def check_federation(event: Pdu, state: AuthState) -> None:
    if state.create.content.get("m.federate") is False and event.server != state.create.server:
        raise NotAllowed("the room is not federated")


def check_sender_joined(event: Pdu, state: AuthState) -> None:
    if state.membership(event.sender) != "join":
        raise NotAllowed(f"{event.sender} is not in the room")


def check_may_offer_invite(event: Pdu, state: AuthState) -> None:
    if state.power.of_user(event.sender) < state.power.invite:
        raise NotAllowed(f"{event.sender} may not invite")


def check_level(event: Pdu, state: AuthState) -> None:
    if state.power.of_user(event.sender) < state.power.needed_for(event.type, event.state_key is not None):
        raise NotAllowed(f"{event.sender} may not send {event.type}")


def check_state_key(event: Pdu) -> None:
    if is_state_key_of_another(event):
        raise NotAllowed("the state_key is another user's ID")


def is_state_key_of_another(event: Pdu) -> bool:
    return event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender


def check_aliases(event: Pdu) -> None:
    """Until version 5, a server lists the aliases it has for the room, whoever its user is and whatever the levels."""
    if event.state_key is None or event.state_key != event.server:
        raise NotAllowed("aliases are those of the sender's server")


def check_redaction(event: Pdu, state: AuthState) -> None:
    """Until version 2, only who has the redact level redacts events whose IDs are of another server."""
    target = event.redacts
    if state.power.may_redact(event.sender):
        return
    if target is None or server_of(target) != server_of(event.event_id):
        raise NotAllowed(f"{event.sender} may not redact events of other servers")
