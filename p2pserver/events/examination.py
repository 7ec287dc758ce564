"""One object looked at from all sides: not only whether it is dropped, but each hash and each signature of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2pserver.events.canonical import NotCanonical
from p2pserver.events.hashing import content_hash, protected_octets
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt, load_pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import KeyLookup, server_has_signed
from p2pserver.events.versions import RoomVersionRules

VALID, INVALID, UNKNOWN_KEY = "valid", "invalid", "key unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """`dropped` says why the object is dropped on receipt, None if it is not; then there is `pdu`.

    `signatures` holds for each server and key ID "valid", "invalid" or "key unknown"; `content_hash` says whether the
    hash in the event is that of its content. Both are empty where the object has no fields to look at. `unverified` is
    what the PDU would be if every signature counted whose key is not known.
    """

    pdu: Pdu | None
    dropped: str | None
    event_id: str | None = None
    content_hash: bool | None = None
    signatures: dict[str, dict[str, str]] = field(default_factory=dict)
    unverified: Pdu | None = None


def examine(obj: object, rules: RoomVersionRules, keys: KeyLookup) -> Examination:
    """What a receiver finds out about an object. Never raises: whatever is wrong with it is a reason."""
    pdu, dropped = None, None
    try:
        pdu = check_on_receipt(obj, rules, keys)
    except PduDropped as drop:
        dropped = drop.reason
    if not isinstance(obj, dict):
        return Examination(pdu=pdu, dropped=dropped)
    raw = {key: value for key, value in obj.items() if key != "unsigned"}
    try:
        matches = content_hash(raw, rules) == raw["hashes"]["sha256"].rstrip("=")
        signatures = _signatures(raw, rules, keys)
        loaded = load_pdu(raw, rules)
    except (NotCanonical, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return Examination(pdu=pdu, dropped=dropped)
    unverified = None
    if pdu is None and dropped is not None and _only_keys_are_missing(obj, rules, keys, dropped):
        copy = raw if matches else redact(raw, rules)
        unverified = load_pdu(copy, rules, redacted_copy=not matches, event_id=loaded.event_id)
    return Examination(
        pdu=pdu,
        dropped=dropped,
        event_id=loaded.event_id,
        content_hash=matches,
        signatures=signatures,
        unverified=unverified,
    )


def _signatures(raw: dict[str, Any], rules: RoomVersionRules, keys: KeyLookup) -> dict[str, dict[str, str]]:
    protected = protected_octets(raw, rules)
    valid_at_ms = raw["origin_server_ts"] if rules.key_validity else None
    found: dict[str, dict[str, str]] = {}
    for server, own in raw.get("signatures", {}).items():
        for key_id, signature in own.items():
            if keys.verify_key(server, key_id, valid_at_ms) is None:
                said = UNKNOWN_KEY
            else:
                is_valid = server_has_signed({server: {key_id: signature}}, server, protected, keys, valid_at_ms)
                said = VALID if is_valid else INVALID
            found.setdefault(server, {})[key_id] = said
    return found


def _only_keys_are_missing(obj: object, rules: RoomVersionRules, keys: KeyLookup, dropped: str) -> bool:
    """Whether the object was dropped for want of a key: the server that should have signed has only unknown ones."""
    assert isinstance(obj, dict)
    prefix = "no valid signature of "
    if not dropped.startswith(prefix):
        return False
    own = obj.get("signatures", {}).get(dropped.removeprefix(prefix), {})
    return bool(own) and all(keys.verify_key(dropped.removeprefix(prefix), key_id, None) is None for key_id in own)
