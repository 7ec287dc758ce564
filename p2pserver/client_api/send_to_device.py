"""To-device messages, out: into the queues of local devices, and durably towards other servers.

Source: client-server API, "Send-to-Device messaging"; server-server API, `m.direct_to_device`.
"""

from __future__ import annotations

import base64
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.federated_json import octets_on_the_way
from p2pserver.client_api.transactions import answered_once, transaction_path
from p2pserver.errors import BadJson, InvalidParam, TooLarge
from p2pserver.http_api.body_fields import required_object
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.rooms.edus import MESSAGE_OCTETS_MAX, RECIPIENTS_MAX
from p2pserver.store.outbox import queue_edu
from p2pserver.store.to_device import add_to_device
from p2pserver.store.tx import Tx

routes = Routes()

EDU_OCTETS = 48 * 1024
"""Recipients of one server are put together up to about so much."""

Messages = dict[str, dict[str, dict[str, Any]]]


@routes.route("PUT", "/sendToDevice/{event_type}/{txn_id}")
async def send_to_device(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /sendToDevice/{eventType}/{txnId}`: a repeat is answered like the first and sends nothing."""
    kind = request.params["event_type"]
    path = transaction_path("sendToDevice", kind, request.params["txn_id"])
    if len(kind.encode()) > 255:
        raise InvalidParam("the type is over 255 octets")
    messages = _messages_of(request.body)
    sender = request.requester.user_id
    edus = [
        (server, base64.b32encode(api.random_bytes(15)).decode(), part)
        for server, part in _edus(messages, api.server_name)
    ]

    def unit(tx: Tx) -> dict[str, Any]:
        def send() -> tuple[dict[str, Any], str | None]:
            for user_id, by_device in messages.items():
                if server_of(user_id) == api.server_name:
                    for device_id, content in by_device.items():
                        add_to_device(tx, user_id, device_id, {"type": kind, "sender": sender, "content": content})
            for server, edu_id, part in edus:
                content = {"sender": sender, "type": kind, "message_id": edu_id, "messages": part}
                queue_edu(tx, server, "m.direct_to_device", content)
            return {}, None

        return answered_once(tx, request.requester, path, wall_ms=api.wall_ms(), act=send)

    return await api.database.write(unit)


def _messages_of(body: dict[str, Any]) -> Messages:
    """`messages` of the body: content by user and device.

    Raises: MissingParam, BadJson, InvalidParam, TooLarge.
    """
    messages = required_object(body, "messages")
    recipients = 0
    for user_id, by_device in messages.items():
        if not is_user_id(user_id):
            raise InvalidParam("a recipient is not a user ID")
        if not isinstance(by_device, dict):
            raise BadJson("the messages to a user are not by device")
        recipients += len(by_device)
        for content in by_device.values():
            if not isinstance(content, dict):
                raise BadJson("the content of a message is not an object")
            if octets_on_the_way(content) > MESSAGE_OCTETS_MAX:
                raise TooLarge(f"a message is over {MESSAGE_OCTETS_MAX} octets")
    if recipients > RECIPIENTS_MAX:
        raise InvalidParam(f"at most {RECIPIENTS_MAX} recipients at once")
    return messages


def _edus(messages: Messages, own_server: str) -> list[tuple[str, Messages]]:
    """(server, messages) of the EDUs to send, each of bounded size."""
    edus: list[tuple[str, Messages]] = []
    open_parts: dict[str, tuple[Messages, int]] = {}
    for user_id, by_device in messages.items():
        server = server_of(user_id)
        if server == own_server:
            continue
        for device_id, content in by_device.items():
            octets = octets_on_the_way(content)
            part, filled = open_parts.get(server, ({}, 0))
            if not part or filled + octets > EDU_OCTETS:
                part, filled = {}, 0
                edus.append((server, part))
            part.setdefault(user_id, {})[device_id] = content
            open_parts[server] = (part, filled + octets)
    return edus
