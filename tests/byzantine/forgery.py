"""Events as an attacker makes them: any fields, signed properly, wrongly or not at all, changed before or after.

Nothing here asks whether an event makes sense. What our own code refuses to sign (floats, lone surrogates) is signed
all the same, over the nearest thing to canonical JSON, as another implementation might do it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.events.canonical import NotCanonical
from p2pserver.events.hashing import reference_hash
from p2pserver.events.redaction import redact
from p2pserver.events.signing import Signer, sign_event
from p2pserver.events.unpadded_base64 import encode_base64, encode_base64url
from p2pserver.events.versions import RoomVersionRules

Raw = dict[str, Any]
Tamper = Callable[[Raw], None]
"""Changes an event in place."""


@dataclass(frozen=True, slots=True)
class Forged:
    """An event that an attacker made. `event_id` is empty where the event has none that anybody could compute."""

    raw: Raw
    event_id: str

    def changed(self, **fields: Any) -> Raw:
        """The event with other fields, the signature left as it was."""
        return {**self.raw, **fields}


def forge(raw: Mapping[str, Any], rules: RoomVersionRules, signers: Sequence[Signer], after: Tamper | None) -> Forged:
    """Hashes and signs, then lets `after` change what it likes."""
    signed = dict(raw)
    for signer in signers:
        signed = sign_anyhow(signed, rules, signer)
    if after is not None:
        after(signed)
    return Forged(signed, id_of(signed, rules))


def id_of(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    try:
        return "$" + encode_base64url(reference_hash(raw, rules))
    except (NotCanonical, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return ""


def sign_anyhow(raw: Raw, rules: RoomVersionRules, signer: Signer) -> Raw:
    """`sign_event`, also of what has no canonical form."""
    try:
        return sign_event(raw, rules, signer)
    except (NotCanonical, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        pass
    bare = {key: value for key, value in raw.items() if key not in ("hashes", "signatures", "unsigned")}
    hashed = {**bare, "hashes": {"sha256": encode_base64(hashlib.sha256(_nearly_canonical(bare)).digest())}}
    try:
        protected = {key: value for key, value in redact(hashed, rules).items() if key != "signatures"}
    except (KeyError, TypeError, AttributeError):
        protected = hashed
    signature = encode_base64(signer.sign(_nearly_canonical(protected)))
    return {**hashed, "signatures": {signer.server_name: {signer.key_id: signature}}}


def _nearly_canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "surrogatepass")
