"""Redacting what a user said, in one room or in all. Source: Synapse, "Redact all the events of a user"."""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.admin_api.jobs import Job
from p2pserver.errors import InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_integer, optional_list, optional_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.identifiers import is_user_id
from p2pserver.store.own_rooms import is_joined, local_members
from p2pserver.store.room_stream import messages_of
from p2pserver.store.rooms import room_ids
from p2pserver.store.tx import Tx

routes = AdminRoutes()

EVENTS_MAX = 1000


@routes.route("POST", "/user/{user_id}/redact")
async def redact_user(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Redacts the newest messages of a user, in his own name where he is of this node and in the room.

    Else by the most powerful local member who may.
    """
    user_id, body = request.params["user_id"], request.body
    if not is_user_id(user_id):
        raise InvalidParam("that is not a user ID")
    named, reason = optional_list(body, "rooms"), optional_string(body, "reason")
    most = optional_integer(body, "limit", default=EVENTS_MAX, least=1, most=EVENTS_MAX)

    def query(tx: Tx) -> list[str]:
        wanted = [admin.require_room(tx, str(room_id)).room_id for room_id in named] or room_ids(tx)
        return [event_id for room_id in wanted for event_id in messages_of(tx, room_id, user_id, most=most)]

    event_ids = (await admin.database.read(query))[:most]
    job = admin.jobs.add(Job(job_id=admin.random_bytes(12).hex(), room_id="", result={"failed_redactions": {}}))

    async def work() -> None:
        for event_id in event_ids:
            try:
                await admin.database.write(lambda tx, event_id=event_id: _redact(admin, tx, user_id, event_id, reason))  # type: ignore[misc]
            except MatrixError as error:
                job.result["failed_redactions"][event_id] = error.message
            await asyncio.sleep(0)

    admin.edge.spawn(job.run(work()), name="redact-user")
    return {"redact_id": job.job_id}


def _redact(admin: AdminApi, tx: Tx, user_id: str, event_id: str, reason: str | None) -> None:
    room_id = admin.rooms.event(tx, event_id).room_id
    sender = user_id if is_joined(tx, user_id, room_id) else None
    if sender is None:
        levels = admin.rooms.power_levels(tx, room_id)
        members = sorted(local_members(tx, room_id), key=levels.of_user, reverse=True)
        if not members:
            raise MatrixError("no user of this node is in the room")
        sender = members[0]
    admin.rooms.send(
        tx,
        room_id=room_id,
        sender=sender,
        event_type="m.room.redaction",
        content={} if reason is None else {"reason": reason},
        redacts=event_id,
    )


@routes.route("GET", "/user/redact_status/{redact_id}")
async def redact_status(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    job = admin.jobs.get(request.params["redact_id"])
    if job is None:
        raise NotFound("there is no such redaction, or it was forgotten")
    return {"status": job.status, **job.result}
