"""Checks 1 to 3 on receipt of a PDU: format, signature, content hash. A pure function of the object and the keys.

Source: server-server API, "Checks performed on receipt of a PDU". What the signature covers: docs/identity.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from p2pserver.events.canonical import NotCanonical, encode_checked
from p2pserver.events.event_format import EVENT_OCTETS_MAX, MalformedEvent, check_fields, check_json
from p2pserver.events.hashing import bound_event_id, event_id_of, spell_event_id
from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import Claim, KeyLookup, claims_of, has_genuine
from p2pserver.events.unpadded_base64 import decode_base64, encode_base64
from p2pserver.events.versions import EventIds, RoomVersionRules
from p2pserver.identifiers import is_user_id, public_key_of, server_of

_CHOSEN = EventIds.CHOSEN
ID_PART_END = 44
"""Of a `bound_event_id`: `$`, and the 43 characters that the redacted form gives."""


class PduDropped(Exception):
    """The object is treated as if it had never arrived; `reason` is for the sender's answer and the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_on_receipt(obj: object, rules: RoomVersionRules, keys: KeyLookup, *, limit_references: bool = True) -> Pdu:
    """The PDU that an object received from anybody is, or its redacted form where the content hash does not match.

    `obj` is a decoded JSON value, which the Pdu keeps a reference to; `unsigned` is neither checked nor kept. The
    signature that counts is that of the sender's server, for a restricted join also that of the authorizing user's
    server, and in versions 1 and 2 also that of the server in the event ID. Where that is a node, the ID must be the
    one that the event itself gives (`bound_event_id`). The event ID does not cover `signatures` nor, where the hash
    lies, the content: a dropped copy and a redacted copy say nothing about other copies with the same ID.

    Raises: PduDropped.
    """
    found = check_all_on_receipt((obj,), rules, keys, limit_references=limit_references)[0]
    if isinstance(found, PduDropped):
        raise found
    return found


def check_all_on_receipt(
    objs: Iterable[object], rules: RoomVersionRules, keys: KeyLookup, *, limit_references: bool = True
) -> list[Pdu | PduDropped]:
    """`check_on_receipt` of each object; what it would raise is in the place of the PDU.

    All are read and hashed before the first signature is verified: in turns both take longer, since the one leaves
    nothing of the other in the processor's caches.
    """
    found: list[Pdu | PduDropped] = []
    questions: list[tuple[int, str, list[Claim], bytes]] = []
    for number, obj in enumerate(objs):
        try:
            pdu, protected, claims_by_server = _read(obj, rules, keys, limit_references)
        except PduDropped as drop:
            found.append(drop)
            continue
        found.append(pdu)
        for server_name, claims in claims_by_server:
            questions.append((number, server_name, claims, protected))
    for number, server_name, claims, protected in reversed(questions):
        if not has_genuine(claims, protected):
            found[number] = PduDropped(f"no valid signature of {server_name}")
    return found


def _read(
    obj: object, rules: RoomVersionRules, keys: KeyLookup, limit_references: bool
) -> tuple[Pdu | PduDropped, bytes, list[tuple[str, list[Claim]]]]:
    """What an object is if each server has a genuine claim to have signed the octets in the middle.

    Raises: PduDropped, for what is wrong before anybody asks for signatures.
    """
    if type(obj) is not dict:
        raise PduDropped("not an object")
    event = {key: value for key, value in obj.items() if key != "unsigned"} if "unsigned" in obj else obj
    try:
        signatures_octets_max = check_fields(event, rules, limit_references=limit_references)
        loose = not rules.strict_json
        check_json(event, loose=loose)
        members = dict(event)
        hashes, signatures = members.pop("hashes"), members.pop("signatures")
        hashed = encode_checked(members, loose=loose)
        _check_size(event, hashed, signatures_octets_max)
        members["hashes"] = hashes
        redacted = redact(members, rules)
        protected = encode_checked(redacted, loose=loose)
    except (MalformedEvent, NotCanonical) as error:
        raise PduDropped(str(error)) from error

    valid_at_ms = event["origin_server_ts"] if rules.key_validity else None
    claims = []
    for server_name in _servers_that_must_sign(event, rules):
        claims.append((server_name, claims_of(signatures, server_name, keys, valid_at_ms)))  # noqa: PERF401  # slower
    is_whole: bool | None = _hash_matches(hashes["sha256"], sha256(hashed).digest())
    if rules.event_ids is _CHOSEN:
        event_id = event["event_id"]
        is_whole = _is_bound(event, rules) and is_whole
        if is_whole is None:
            return PduDropped("the event ID is not the one that the event gives"), protected, claims
    else:
        event_id = spell_event_id(sha256(protected).digest(), rules)
    if is_whole:
        return _pdu(event, rules, event_id, redacted_copy=False), protected, claims
    redacted["signatures"] = signatures
    return _pdu(redacted, rules, event_id, redacted_copy=True), protected, claims


def load_pdu(
    raw: Mapping[str, Any], rules: RoomVersionRules, *, redacted_copy: bool = False, event_id: str | None = None
) -> Pdu:
    """A PDU from our own store, which has passed `check_on_receipt` before; nothing is checked again.

    `event_id` saves computing it where the store has it beside the event.
    """
    if event_id is None:
        event_id = event_id_of(raw, rules)
    return _pdu(raw, rules, event_id, redacted_copy=redacted_copy)


def _check_size(event: Mapping[str, Any], hashed: bytes, signatures_octets_max: int | None) -> None:
    """Encode what the hashed encoding lacks, where that is so much that it matters, or may have a lone surrogate."""
    hashes = event["hashes"]
    if signatures_octets_max is not None and len(hashes) == 1:
        hash_octets_max = len('"hashes":{"sha256":""},"signatures":,') + 6 * len(hashes["sha256"])
        if len(hashed) + hash_octets_max + signatures_octets_max <= EVENT_OCTETS_MAX:
            return
    rest = encode_checked({"hashes": hashes, "signatures": event["signatures"]})
    # `{A}` and `{B}` make `{A,B}`, one octet less.
    if len(hashed) + len(rest) - 1 > EVENT_OCTETS_MAX:
        raise MalformedEvent(f"the event is over {EVENT_OCTETS_MAX} octets")


def _servers_that_must_sign(event: Mapping[str, Any], rules: RoomVersionRules) -> list[str]:
    """The sender's server; the event ID's (until 2); the one that let a user into a restricted room (8 and later).

    The last is looked up in the content as it came, since version 8 protects no word of it.
    """
    servers = [server_of(event["sender"])]
    if event["type"] == "m.room.member" and rules.restricted_joins:
        content = event["content"]
        if content.get("membership") == "join" and "join_authorised_via_users_server" in content:
            authorizing_user = content["join_authorised_via_users_server"]
            if not is_user_id(authorizing_user):
                raise PduDropped("join_authorised_via_users_server is not a user ID")
            servers.append(server_of(authorizing_user))
    elif rules.event_ids is _CHOSEN:
        servers.append(server_of(event["event_id"]))
    return servers if len(servers) == 1 or servers[0] != servers[1] else servers[:1]


def _is_bound(event: Mapping[str, Any], rules: RoomVersionRules) -> bool | None:
    """Whether the event ID of version 1 or 2 fixes all of the event, or is that of a server that is no node.

    None, if it is a node's and does not even fix the redacted form.
    """
    server_name = server_of(event["event_id"])
    if public_key_of(server_name) is None:
        return True
    bound, claimed = bound_event_id(event, rules, server_name), event["event_id"]
    if bound[:ID_PART_END] != claimed[:ID_PART_END] or len(bound) != len(claimed):
        return None
    return bool(bound == claimed)


def _hash_matches(claimed: str, digest: bytes) -> bool:
    if claimed == encode_base64(digest):
        return True
    try:
        return decode_base64(claimed) == digest
    except ValueError:
        return False


def _pdu(raw: Mapping[str, Any], rules: RoomVersionRules, event_id: str, *, redacted_copy: bool) -> Pdu:
    event_type = raw["type"]
    if rules.room_id_is_create_hash and event_type == "m.room.create":
        room_id = "!" + event_id[1:]
    else:
        room_id = raw["room_id"]
    prev_events, auth_events = raw["prev_events"], raw["auth_events"]
    if rules.event_ids is _CHOSEN:
        prev_events, auth_events = [each for each, _ in prev_events], [each for each, _ in auth_events]
    return Pdu(
        event_id=event_id,
        room_id=room_id,
        rules=rules,
        raw=raw,
        type=event_type,
        sender=raw["sender"],
        state_key=raw.get("state_key"),
        content=raw["content"],
        depth=raw["depth"],
        origin_server_ts=raw["origin_server_ts"],
        prev_events=tuple(prev_events) if len(prev_events) < 2 else tuple(dict.fromkeys(prev_events)),
        auth_events=tuple(auth_events),
        redacted_copy=redacted_copy,
    )
