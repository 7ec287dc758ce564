"""What another server sends that is no event: to-device messages and device list updates, which must not be lost.

An EDU is not signed; its origin is the authenticated server at the other end of the conversation. So it may only speak
of that server's own users. What does not is ignored, as are types that are not known: an EDU earns no error, since
nobody would read it. Source: server-server API, "EDUs", "Send-to-device messaging", "Device Management".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from p2pserver.events.canonical import NotCanonical, encode_canonical
from p2pserver.identifiers import is_event_id, is_user_id, server_of
from p2pserver.rooms.server_acl import is_denied
from p2pserver.store import memberships
from p2pserver.store.accounts import user_exists
from p2pserver.store.device_lists import note_remote_change
from p2pserver.store.receipts import MAIN, READ, Receipt, put_receipt
from p2pserver.store.to_device import add_to_device, is_first_receipt
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

MESSAGE_ID_CHARACTERS_MAX = 32
MESSAGE_OCTETS_MAX = 65_536
EDU_OCTETS_MAX = 1 << 20
RECIPIENTS_MAX = 1_000
RECEIPTS_MAX = 500
"""Receipts in one EDU."""


def receive_edu(tx: Tx, origin: str, edu_type: str, content: Mapping[str, Any]) -> None:
    """Takes one EDU of `origin`, durably and once; never raises on what is in it."""
    if _octets(content) > EDU_OCTETS_MAX:
        reason: str | None = "too large or not canonical JSON"
    elif edu_type == "m.direct_to_device":
        reason = _direct_to_device(tx, origin, content)
    elif edu_type in ("m.device_list_update", "m.signing_key_update"):
        reason = _device_list_update(tx, origin, content)
    else:
        reason = "unknown type"
    if reason is not None:
        log.debug("EDU ignored", extra={"origin": origin, "edu_type": edu_type[:64], "reason": reason})


def receive_receipts(tx: Tx, origin: str, content: Mapping[str, Any]) -> None:
    """Takes the public receipts of an `m.receipt` EDU, of users of `origin` who are in the room they speak of."""
    for room_id, user_id, event_id, data in islice(_receipts_in(content), RECEIPTS_MAX):
        thread_id, ts = data.get("thread_id"), data.get("ts")
        if not _is_user_of(user_id, origin) or memberships.current_membership(tx, room_id, user_id) != "join":
            continue
        if is_denied(tx, room_id, origin):
            continue
        if thread_id is not None and thread_id != MAIN and not is_event_id(thread_id):
            continue
        if type(ts) is int and 0 <= ts < 2**53:
            put_receipt(
                tx,
                Receipt(room_id=room_id, user_id=user_id, kind=READ, thread_id=thread_id, event_id=event_id, ts=ts),
            )


def _receipts_in(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(room, user, event, data) of what is well-formed; `m.read` alone, for others have no business here."""
    for room_id, kinds in content.items():
        by_user = kinds.get(READ) if isinstance(kinds, Mapping) else None
        for user_id, receipt in by_user.items() if isinstance(by_user, Mapping) else ():
            if not isinstance(receipt, Mapping):
                continue
            event_ids, data = receipt.get("event_ids"), receipt.get("data")
            if isinstance(event_ids, list) and event_ids and is_event_id(event_ids[0]) and isinstance(data, Mapping):
                yield room_id, user_id, event_ids[0], data


def _direct_to_device(tx: Tx, origin: str, content: Mapping[str, Any]) -> str | None:
    sender, kind = content.get("sender"), content.get("type")
    message_id, messages = content.get("message_id"), content.get("messages")
    if not _is_user_of(sender, origin):
        return "the sender is not of that server"
    if not isinstance(kind, str) or len(kind.encode("utf-8", "replace")) > 255:
        return "bad type"
    if not isinstance(message_id, str) or not 1 <= len(message_id) <= MESSAGE_ID_CHARACTERS_MAX:
        return "bad message_id"
    if not isinstance(messages, Mapping):
        return "bad messages"
    if not is_first_receipt(tx, origin, message_id):
        return "received before"
    recipients = 0
    strangers: dict[str, bool] = {}
    for user_id, by_device in messages.items():
        if not isinstance(by_device, Mapping) or not user_exists(tx, user_id):
            continue
        for device_id, message in by_device.items():
            recipients += 1
            if recipients > RECIPIENTS_MAX:
                return "too many recipients"
            if isinstance(message, Mapping) and _octets(message) <= MESSAGE_OCTETS_MAX:
                ours = server_of(user_id)
                if ours not in strangers:
                    strangers[ours] = not memberships.shared_rooms(tx, ours, origin)
                add_to_device(
                    tx,
                    user_id,
                    device_id,
                    {"type": kind, "sender": sender, "content": dict(message)},
                    stranger=strangers[ours],
                )
    return None


def _device_list_update(tx: Tx, origin: str, content: Mapping[str, Any]) -> str | None:
    user_id = content.get("user_id")
    if not isinstance(user_id, str) or not _is_user_of(user_id, origin):
        return "the user is not of that server"
    note_remote_change(tx, user_id)
    return None


def _is_user_of(user_id: object, server: str) -> bool:
    return isinstance(user_id, str) and is_user_id(user_id) and server_of(user_id) == server


def _octets(value: Mapping[str, Any]) -> int:
    """The size as canonical JSON; beyond all bounds for what is none."""
    try:
        return len(encode_canonical(dict(value)))
    except NotCanonical:
        return EDU_OCTETS_MAX + 1
