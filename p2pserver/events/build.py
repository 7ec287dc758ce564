"""Our own events: put together, hashed, signed, and checked against the same format as everybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pserver.errors import BadJson, TooLarge
from p2pserver.events.canonical import NotCanonical, encode_canonical
from p2pserver.events.event_format import EVENT_OCTETS_MAX, MalformedEvent, OversizedEvent, check_fields
from p2pserver.events.hashing import bound_event_id
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.signing import Signer, sign_event
from p2pserver.events.versions import EventIds, RoomVersionRules


def build_event(
    *,
    rules: RoomVersionRules,
    room_id: str | None,
    sender: str,
    event_type: str,
    state_key: str | None,
    content: Mapping[str, Any],
    prev_events: Sequence[str],
    auth_events: Sequence[str],
    depth: int,
    origin_server_ts: int,
    signer: Signer,
    redacts: str | None = None,
    reference_hashes: Mapping[str, str] | None = None,
) -> Pdu:
    """A signed event. `room_id` is None for the create event of a version 12 room and for nothing else.

    `state_key` None makes a message event. `redacts` goes where the room version keeps it. `depth` and
    `origin_server_ts` (ms) are the caller's; nothing is read from a clock. `reference_hashes` are those of cited
    events, by their IDs, in standard base64: versions 1 and 2 put them beside the IDs.

    Raises: TooLarge, if the signed event or a field of it is over the limit; BadJson, if it is not canonical JSON or
    does not follow the event format.
    """
    raw: dict[str, Any] = {
        "type": event_type,
        "sender": sender,
        "content": dict(content),
        "prev_events": list(prev_events),
        "auth_events": list(auth_events),
        "depth": depth,
        "origin_server_ts": origin_server_ts,
    }
    if room_id is not None:
        raw["room_id"] = room_id
    if state_key is not None:
        raw["state_key"] = state_key
    if redacts is not None:
        (raw["content"] if rules.redacts_in_content else raw)["redacts"] = redacts
    try:
        if rules.event_ids is EventIds.CHOSEN:
            for name in ("prev_events", "auth_events"):
                raw[name] = [[each, _hashes_of(each, reference_hashes)] for each in raw[name]]
            raw["event_id"] = bound_event_id(raw, rules, signer.server_name)
        signed = sign_event(raw, rules, signer)
        check_fields(signed, rules)
        octets = len(encode_canonical(signed, loose=not rules.strict_json))
    except OversizedEvent as error:
        raise TooLarge(str(error)) from error
    except (MalformedEvent, NotCanonical) as error:
        raise BadJson(str(error)) from error
    if octets > EVENT_OCTETS_MAX:
        raise TooLarge(f"the event is over {EVENT_OCTETS_MAX} octets")
    return load_pdu(signed, rules)


def _hashes_of(event_id: str, reference_hashes: Mapping[str, str] | None) -> dict[str, str]:
    known = None if reference_hashes is None else reference_hashes.get(event_id)
    return {} if known is None else {"sha256": known}
