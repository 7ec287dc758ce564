"""Deleting a room from this node: its users leave, its aliases go, its copy is purged.

    block? -> new room for the users? -> each local user leaves -> aliases -> everything that is held of it is deleted

Each step is a unit of work, so that other people's requests get their turn; a restart in the middle leaves a room with
fewer local users, which can be deleted again. docs/admin.md says what this means where other nodes hold the room too.
Source: Synapse, "Delete Room API".
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.admin_api.jobs import Job
from p2pserver.errors import MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_boolean, optional_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.rooms.departures import leave
from p2pserver.store import aliases
from p2pserver.store.blocked_rooms import block_room
from p2pserver.store.own_rooms import local_users_of
from p2pserver.store.room_purge import purge_room
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

routes = AdminRoutes()

ROOM_NAME = "Content Violation Notification"
MESSAGE = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."


@routes.route("DELETE", "/rooms/{room_id}")
async def delete_room(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Answers when it is done."""
    deletion = await Deletion.asked_for(admin, request)
    await deletion.run()
    return deletion.job.result


@routes.route("DELETE", "/rooms/{room_id}", versions=("v2",))
async def delete_room_in_the_background(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    deletion = await Deletion.asked_for(admin, request)
    admin.jobs.add(deletion.job)
    admin.edge.spawn(deletion.job.run(deletion.run()), name="delete-room")
    return {"delete_id": deletion.job.job_id}


@routes.route("GET", "/rooms/delete_status/{delete_id}", versions=("v2",))
async def delete_status(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    job = admin.jobs.get(request.params["delete_id"])
    if job is None:
        raise NotFound("there is no such deletion, or it was forgotten")
    return _status(job)


@routes.route("GET", "/rooms/{room_id}/delete_status", versions=("v2",))
async def delete_status_of_room(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    jobs = [job for job in admin.jobs.of_room(request.params["room_id"]) if "kicked_users" in job.result]
    if not jobs:
        raise NotFound("this room was not deleted, or it was forgotten")
    return {"results": [{"delete_id": job.job_id, **_status(job)} for job in jobs]}


def _status(job: Job) -> dict[str, Any]:
    status = {"active": "shutting_down"}.get(job.status, job.status)
    shown: dict[str, Any] = {"status": status, "shutdown_room": job.result}
    return shown if job.error is None else {**shown, "error": job.error}


class Deletion:
    """One room that is to go."""

    def __init__(self, admin: AdminApi, room_id: str, asked_by: str, body: dict[str, Any]) -> None:
        """Raises: BadJson."""
        self._admin, self._room_id, self._asked_by = admin, room_id, asked_by
        self._block = optional_boolean(body, "block")
        self._purge = optional_boolean(body, "purge", default=True)
        self._force = optional_boolean(body, "force_purge")
        self._new_owner = optional_string(body, "new_room_user_id")
        self._new_name = optional_string(body, "room_name") or ROOM_NAME
        self._message = optional_string(body, "message") or MESSAGE
        result: dict[str, Any] = {"kicked_users": [], "failed_to_kick_users": []}
        result |= {"local_aliases": [], "new_room_id": None}
        self.job = Job(job_id=admin.random_bytes(12).hex(), room_id=room_id, result=result)

    @classmethod
    async def asked_for(cls, admin: AdminApi, request: ApiRequest) -> Deletion:
        """Raises: NotFound; MatrixError, if the owner of the new room is not of this node; BadJson."""
        room_id = admin.require_room_id(request.params["room_id"])
        deletion = cls(admin, room_id, request.requester.user_id, request.body)

        def check(tx: Tx) -> None:
            if not deletion._block:
                admin.require_room(tx, room_id)
            if deletion._new_owner is not None and admin.account(tx, deletion._new_owner).deactivated:
                raise MatrixError("the owner of the new room has a deactivated account")

        await admin.database.read(check)
        return deletion

    async def run(self) -> None:
        """Raises: MatrixError, if a user cannot be made to leave and `force_purge` was not asked for."""
        admin, room_id, result = self._admin, self._room_id, self.job.result
        if self._block:
            await admin.database.write(lambda tx: block_room(tx, room_id, by=self._asked_by, now_ms=admin.wall_ms()))
        users = await admin.database.read(lambda tx: local_users_of(tx, room_id))
        if self._new_owner is not None and users:
            result["new_room_id"] = await admin.database.write(self._make_new_room)
        for user_id in users:
            await admin.database.write(lambda tx, user_id=user_id: self._move(tx, user_id))  # type: ignore[misc]
            await asyncio.sleep(0)
        result["local_aliases"] = await admin.database.write(self._drop_aliases)
        if self._purge or self._force:
            if result["failed_to_kick_users"] and not self._force:
                raise MatrixError("some users cannot be made to leave; `force_purge` deletes the room all the same")
            await admin.database.write(self._purge_room)

    def _move(self, tx: Tx, user_id: str) -> None:
        """Lets a user leave, and takes him to the new room."""
        admin, result = self._admin, self.job.result
        left = leave(admin.rooms, tx, user_id, self._room_id)
        result["kicked_users" if left else "failed_to_kick_users"].append(user_id)
        new_room_id = result["new_room_id"]
        if left and new_room_id is not None and user_id != self._new_owner:
            admin.rooms.send(
                tx,
                room_id=new_room_id,
                sender=user_id,
                event_type="m.room.member",
                state_key=user_id,
                content={"membership": "join"},
            )

    def _make_new_room(self, tx: Tx) -> str:
        admin, owner = self._admin, self._new_owner
        assert owner is not None
        room_id = admin.rooms.create(
            tx,
            version=admin.default_room_version,
            creator=owner,
            creation_content={},
            state=[
                ("m.room.power_levels", "", admin.announcement_levels(owner)),
                ("m.room.join_rules", "", {"join_rule": "public"}),
                ("m.room.history_visibility", "", {"history_visibility": "shared"}),
                ("m.room.name", "", {"name": self._new_name}),
            ],
            creator_profile={},
        )
        admin.rooms.send(
            tx,
            room_id=room_id,
            sender=owner,
            event_type="m.room.message",
            content={"msgtype": "m.text", "body": self._message},
        )
        return room_id

    def _drop_aliases(self, tx: Tx) -> list[str]:
        found = aliases.aliases_of(tx, self._room_id)
        for alias in found:
            aliases.delete_alias(tx, alias)
        aliases.set_published(tx, self._room_id, False)
        return found

    def _purge_room(self, tx: Tx) -> None:
        if room(tx, self._room_id) is not None:
            purge_room(tx, self._room_id, via=self._admin.server_name, now_ms=self._admin.wall_ms())
