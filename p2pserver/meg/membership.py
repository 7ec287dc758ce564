"""The auth rule about `m.room.member`: who may join, invite, leave, kick, ban, unban and knock.

Source: room versions 1 to 12, "Authorization rules" (rule 4 of versions 6 to 11, rule 5 of the others). Which join
rules and memberships exist in a version is data: `RoomVersionRules.join_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from p2pserver.events.canonical import NotCanonical, encode_canonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import VERIFY_KEY_OCTETS, signature_matches
from p2pserver.events.unpadded_base64 import decode_base64
from p2pserver.identifiers import is_user_id
from p2pserver.meg.auth_state import AuthState
from p2pserver.meg.power import Level, creators_of
from p2pserver.meg.state import NotAllowed

THIRD_PARTY_SIGNATURE_CHECKS_MAX: Final = 256
"""Pairs of (public key, signature) tried for one third-party invite: two 64 KiB events could ask for half a million."""


def check_membership(event: Pdu, state: AuthState) -> None:
    """Whether this `m.room.member` event may change its target's membership.

    That a restricted join is signed by the authorising user's server is checked on receipt, with the signatures.
    Raises: NotAllowed.
    """
    target = event.state_key
    membership = event.content.get("membership")
    if target is None or not is_user_id(target):
        raise NotAllowed("a membership event needs a user ID as its state_key")
    check = TRANSITIONS.get(membership) if isinstance(membership, str) else None
    if check is None or (membership == "knock" and not event.rules.knocking):
        raise NotAllowed("the membership is not one that this room version has")
    check(event, target, state)


def check_join(event: Pdu, target: str, state: AuthState) -> None:
    if is_first_join(event, target, state.create):
        return
    if event.sender != target:
        raise NotAllowed("nobody can join for another user")
    current = state.membership(target)
    if current == "ban":
        raise NotAllowed(f"{target} is banned")
    rule = state.join_rule()
    if rule == "public":
        return
    if rule not in event.rules.join_rules:
        raise NotAllowed(f"nobody may join by the join rule {rule!r}")
    if current in ("join", "invite"):
        return
    if rule in ("invite", "knock"):
        raise NotAllowed(f"{target} is not invited")
    check_authorising_user(event, state)


def is_first_join(event: Pdu, target: str, create: Pdu) -> bool:
    """Whether this is the creator's own join, right after the create event (in version 12: its sender's)."""
    if event.prev_events != (create.event_id,):
        return False
    return target == create.sender if create.rules.creators_privileged else target in creators_of(create)


def check_authorising_user(event: Pdu, state: AuthState) -> None:
    """A restricted join by somebody who was not invited: a member who may invite vouches for him."""
    user_id = event.content.get("join_authorised_via_users_server")
    if not isinstance(user_id, str):
        raise NotAllowed("a restricted join needs an invite or an authorising user")
    if state.membership(user_id) != "join" or state.power.of_user(user_id) < state.power.invite:
        raise NotAllowed(f"{user_id} may not authorise joins")


def check_invite(event: Pdu, target: str, state: AuthState) -> None:
    if "third_party_invite" in event.content:
        check_third_party_invite(event, target, state)
        return
    if state.membership(event.sender) != "join":
        raise NotAllowed(f"{event.sender} is not in the room")
    if state.membership(target) in ("join", "ban"):
        raise NotAllowed(f"{target} is joined or banned already")
    if state.power.of_user(event.sender) < state.power.invite:
        raise NotAllowed(f"{event.sender} may not invite")


def check_third_party_invite(event: Pdu, target: str, state: AuthState) -> None:
    if state.membership(target) == "ban":
        raise NotAllowed(f"{target} is banned")
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    if not isinstance(signed, Mapping):
        raise NotAllowed("the third-party invite is not signed")
    token = signed.get("token")
    if not isinstance(token, str) or signed.get("mxid") != target:
        raise NotAllowed("the third-party invite is not for this user")
    offer = state.event(("m.room.third_party_invite", token))
    if offer is None or offer.sender != event.sender:
        raise NotAllowed("the sender did not offer this third-party invite")
    try:
        signed_octets = encode_canonical(
            {name: signed[name] for name in signed if name not in ("signatures", "unsigned")},
            loose=not event.rules.strict_json,
        )
    except NotCanonical as error:
        raise NotAllowed("the third-party invite is not canonical JSON") from error
    checks = ((signature, key) for key in _public_keys(offer.content) for signature in _signatures(signed))
    if not any(
        signature_matches(signature, signed_octets, key)
        for signature, key in islice(checks, THIRD_PARTY_SIGNATURE_CHECKS_MAX)
    ):
        raise NotAllowed("no signature of the third-party invite is by a key of the offer")


def _public_keys(offer: Mapping[str, Any]) -> list[bytes]:
    """`public_key` and those in `public_keys`: in the order of the event, which its hash fixes."""
    listed = offer.get("public_keys")
    entries = [offer, *(listed if isinstance(listed, list) else [])]
    texts = [entry.get("public_key") for entry in entries if isinstance(entry, Mapping)]
    return [key for key in map(_decoded, texts) if key is not None and len(key) == VERIFY_KEY_OCTETS]


def _signatures(signed: Mapping[str, Any]) -> list[bytes]:
    """All Ed25519 signatures of the signed part, by server and key ID."""
    servers = signed.get("signatures")
    if not isinstance(servers, Mapping):
        return []
    by_name = sorted(
        (server, key_id, signature)
        for server, keys in servers.items()
        if isinstance(keys, Mapping)
        for key_id, signature in keys.items()
        if key_id.startswith("ed25519:") and isinstance(signature, str)
    )
    return [octets for octets in (_decoded(signature) for _, _, signature in by_name) if octets is not None]


def _decoded(text: object) -> bytes | None:
    """Base64 of either alphabet, as identity servers write both."""
    if not isinstance(text, str):
        return None
    try:
        return decode_base64(text.replace("-", "+").replace("_", "/"))
    except ValueError:
        return None


def check_leave(event: Pdu, target: str, state: AuthState) -> None:
    current = state.membership(target)
    if event.sender == target:
        if current not in ("invite", "join") and not (current == "knock" and event.rules.knocking):
            raise NotAllowed(f"{target} has nothing to leave")
        return
    if state.membership(event.sender) != "join":
        raise NotAllowed(f"{event.sender} is not in the room")
    level = state.power.of_user(event.sender)
    if current == "ban" and level < state.power.ban:
        raise NotAllowed(f"{event.sender} may not unban")
    if level < state.power.kick or state.power.of_user(target) >= level:
        raise NotAllowed(f"{event.sender} may not kick {target}")


def check_ban(event: Pdu, target: str, state: AuthState) -> None:
    if state.power.of_user(target) >= level_to_ban(event.sender, state):
        raise NotAllowed(f"{event.sender} may not ban {target}")


def level_to_ban(sender: str, state: AuthState) -> Level:
    """A user may ban, whatever their membership, all those whose level is below this one.

    Raises: NotAllowed.
    """
    if state.membership(sender) != "join":
        raise NotAllowed(f"{sender} is not in the room")
    level = state.power.of_user(sender)
    if level < state.power.ban:
        raise NotAllowed(f"{sender} may not ban anybody")
    return level


def check_knock(event: Pdu, target: str, state: AuthState) -> None:
    if state.join_rule() not in event.rules.join_rules & {"knock", "knock_restricted"}:
        raise NotAllowed("the join rule does not let anybody knock")
    if event.sender != target:
        raise NotAllowed("nobody can knock for another user")
    if state.membership(target) in ("ban", "invite", "join"):
        raise NotAllowed(f"{target} has no reason to knock")


TRANSITIONS: Final[dict[str, Callable[[Pdu, str, AuthState], None]]] = {
    "join": check_join,
    "invite": check_invite,
    "leave": check_leave,
    "ban": check_ban,
    "knock": check_knock,
}
