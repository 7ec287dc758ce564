"""Rooms: every use case of a room, as plain functions inside a unit of work of the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Container, Sequence
from typing import Any

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import KeyLookup, Signer
from p2pserver.meg.clock import HybridClock
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import StateSlot
from p2pserver.rooms import (
    healing,
    invites,
    joining,
    knocking,
    proof,
    reading,
    restricted,
    sending,
    server_acl,
    server_visibility,
    serving,
    upgrading,
    visibility,
)
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.receipt import Intake, receive_overheard
from p2pserver.rooms.values import ReceiveReport, RoomDigest, RoomLimits, Standing
from p2pserver.store import events as event_rows
from p2pserver.store import graph_ends, memberships, rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx


class Rooms:
    """One object per node. It holds no state of its own: whatever lasts is in the database behind `tx`."""

    def __init__(
        self,
        *,
        signer: Signer,
        keys: KeyLookup,
        clock: HybridClock,
        wall_ms: Callable[[], int],
        rng: random.Random,
        user_exists: Callable[[Tx, str], bool],
        limits: RoomLimits | None = None,
    ) -> None:
        self.context = RoomContext(
            signer=signer,
            keys=keys,
            clock=clock,
            wall_ms=wall_ms,
            rng=rng,
            user_exists=user_exists,
            limits=limits or RoomLimits(),
        )
        self.server_name = signer.server_name

    def create(
        self,
        tx: Tx,
        *,
        version: str,
        creator: str,
        creation_content: dict[str, Any],
        state: Sequence[tuple[str, str, dict[str, Any]]],
        creator_profile: dict[str, Any],
    ) -> str:
        """Makes a room: create, the creator's join, then `state` (type, state_key, content) in order."""
        return sending.create_room(
            self.context,
            tx,
            version=version,
            creator=creator,
            creation_content=creation_content,
            state=state,
            creator_profile=creator_profile,
        )

    def upgrade(
        self,
        tx: Tx,
        *,
        room_id: str,
        user_id: str,
        version: str,
        additional_creators: Sequence[str],
        user_profile: dict[str, Any],
    ) -> str:
        """Replaces a room by a new one of another version, and returns the new room's ID."""
        return upgrading.upgrade_room(
            self.context,
            tx,
            room_id=room_id,
            user_id=user_id,
            version=version,
            additional_creators=additional_creators,
            user_profile=user_profile,
        )

    def send(
        self,
        tx: Tx,
        *,
        room_id: str,
        sender: str,
        event_type: str,
        content: dict[str, Any],
        state_key: str | None = None,
        redacts: str | None = None,
        ts_ms: int | None = None,
    ) -> Pdu:
        """Builds an event on the forward extremities, authorizes and keeps it, and owes it to every member server.

        `ts_ms`: its timestamp, where that is not when it is sent.
        """
        return sending.send_event(
            self.context,
            tx,
            room_id=room_id,
            sender=sender,
            event_type=event_type,
            content=content,
            state_key=state_key,
            redacts=redacts,
            ts_ms=ts_ms,
        )

    def invite_payload(self, tx: Tx, event_id: str) -> dict[str, Any]:
        """What goes with an invite of ours to `store.outbox.queue_invite`: {room_version, event, invite_room_state}."""
        return invites.invite_payload(tx, event_id)

    def join_offer(self, tx: Tx, *, origin: str, room_id: str, user_id: str, versions: list[str]) -> dict[str, Any]:
        """What a server needs to join one of its users to a room of ours, in one answer."""
        return joining.join_offer(self.context, tx, origin=origin, room_id=room_id, user_id=user_id, versions=versions)

    def draft_join(
        self, tx: Tx, *, user_id: str, offer: dict[str, Any], content: dict[str, Any]
    ) -> tuple[str, Pdu] | None:
        """Of a join that somebody has to vouch for: his server, and the event that it is to sign (`sign_join`)."""
        return joining.draft_join(self.context, tx, user_id=user_id, offer=offer, content=content)

    def join_with(
        self,
        tx: Tx,
        *,
        user_id: str,
        offer: dict[str, Any],
        resident: str,
        content: dict[str, Any],
        signed: dict[str, Any] | None = None,
    ) -> Pdu:
        """Joins a local user with the offer of a resident server."""
        return joining.join_with(
            self.context, tx, user_id=user_id, offer=offer, resident=resident, content=content, signed=signed
        )

    def who_vouches(self, tx: Tx, room_id: str, user_id: str) -> str | None:
        """The local user who lets somebody into a restricted room; None, if nobody needs to."""
        return restricted.who_vouches(self.context, tx, room_id, user_id)

    def make_knock(self, template: dict[str, Any], *, room_id: str, user_id: str, content: dict[str, Any]) -> Pdu:
        """The knock of a local user by the template of a resident server."""
        return knocking.make_knock(self.context, template, room_id=room_id, user_id=user_id, content=content)

    def keep_knock(self, tx: Tx, *, knock: Pdu, answer: dict[str, Any], via: str) -> None:
        """Notes that a local user has knocked, with what the resident server answered to the knock."""
        knocking.keep_knock(self.context, tx, knock=knock.raw, version=knock.rules.version, answer=answer, via=via)

    def receive_invite(self, tx: Tx, *, origin: str, payload: dict[str, Any]) -> Verdict:
        """Takes an invite for a local user to a room that need not be held here."""
        return invites.receive_invite(self.context, tx, origin=origin, payload=payload)

    def decline_invite(self, tx: Tx, *, user_id: str, room_id: str, reason: str | None = None) -> None:
        """Refuses an invite to a room that is not held here, or takes a knock back."""
        invites.decline_invite(self.context, tx, user_id=user_id, room_id=room_id, reason=reason)

    def receive(
        self, tx: Tx, *, room_id: str, raws: Sequence[object], source: str, backfill: bool = False
    ) -> ReceiveReport:
        """Judges PDUs that `source` brought (whoever made them)."""
        if rooms.room(tx, room_id) is None:
            return ReceiveReport(results=invites.take_back(self.context, tx, room_id, raws))
        invites.take_back(self.context, tx, room_id, raws)
        return Intake(self.context, tx, room_id).take_all(raws, source, backfill=backfill)

    def denies(self, tx: Tx, room_id: str, server: str) -> bool:
        """Whether the room's server ACL lets this server say nothing about it."""
        return server_acl.is_denied(tx, room_id, server)

    def talking_servers(self, tx: Tx, room_id: str) -> list[str]:
        """Servers in the room that its server ACL lets talk about it, sorted."""
        return server_acl.allowed(tx, room_id, sorted(self.member_servers(tx, room_id)))

    def refuse(self, tx: Tx, *, room_id: str, raws: Sequence[object]) -> ReceiveReport:
        """What PDUs earn that come from a server which the room denies."""
        return server_acl.refused(self.context, tx, room_id, raws)

    def receive_overheard(self, tx: Tx, *, room_id: str, raws: Sequence[object]) -> ReceiveReport:
        """Judges PDUs that nobody in particular brought: whole ones only, on account of the servers that signed."""
        return receive_overheard(self.context, tx, room_id, raws)

    def leaves(self, tx: Tx, room_id: str) -> list[str]:
        return graph_ends.leaves(tx, room_id)

    def have_sample(self, tx: Tx, room_id: str, most: int = 64) -> list[str]:
        return serving.have_sample(tx, room_id, most)

    def newest_held(self, tx: Tx, room_id: str, most: int) -> list[str]:
        return serving.newest_held(tx, room_id, most)

    def missing_for(
        self,
        tx: Tx,
        *,
        room_id: str,
        want: list[str],
        have: list[str],
        octets_max: int,
        origin: str,
        known: Container[str] = (),
    ) -> tuple[list[dict[str, Any]], bool]:
        return serving.missing_for(
            self.context, tx, room_id=room_id, want=want, have=have, octets_max=octets_max, origin=origin, known=known
        )

    def genuine_copies(self, tx: Tx, event_ids: Collection[str], *, origin: str) -> dict[str, dict[str, Any]]:
        return serving.genuine_copies(tx, event_ids, origin=origin)

    def wanted(self, tx: Tx, room_id: str) -> list[str]:
        return serving.wanted(self.context, tx, room_id)

    def member_servers(self, tx: Tx, room_id: str) -> set[str]:
        return memberships.joined_servers(tx, room_id)

    def rooms_with(self, tx: Tx, server: str) -> list[str]:
        return serving.rooms_with(self.context, tx, server)

    def may_see_room(self, tx: Tx, server: str, room_id: str) -> bool:
        return server_visibility.sees_room(tx, server, room_id)

    def event(self, tx: Tx, event_id: str) -> Pdu:
        found = event_rows.shown(tx, event_id)
        if found is None:
            raise KeyError(event_id)
        return found

    def stored(self, tx: Tx, event_id: str) -> StoredEvent | None:
        found = event_rows.stored(tx, event_id)
        return found if found is not None else invites.stored_end(tx, event_id)

    def current_state(self, tx: Tx, room_id: str) -> dict[StateSlot, str]:
        return reading.current_state(tx, room_id)

    def current_event(self, tx: Tx, room_id: str, event_type: str, state_key: str = "") -> Pdu | None:
        return reading.current_event(tx, room_id, event_type, state_key)

    def state_before(self, tx: Tx, event_id: str) -> dict[StateSlot, str]:
        return reading.state_before(tx, event_id)

    def state_after(self, tx: Tx, event_id: str) -> dict[StateSlot, str]:
        return reading.state_after(tx, event_id)

    def power_levels(self, tx: Tx, room_id: str) -> PowerLevels:
        return reading.power_levels(tx, room_id)

    def check_is_not_blocked(self, tx: Tx, room_id: str, user_id: str) -> None:
        """Raises: Forbidden, if an operator of this node blocked the room and the user is not in it."""
        sending.check_is_not_blocked(tx, room_id, user_id)

    def membership(self, tx: Tx, room_id: str, user_id: str) -> str | None:
        return memberships.current_membership(tx, room_id, user_id)

    def visible_to(self, tx: Tx, user_id: str, events: Sequence[StoredEvent]) -> list[bool]:
        return visibility.visible_to(tx, user_id, events)

    def stripped_state(self, tx: Tx, room_id: str) -> list[dict[str, Any]]:
        return reading.stripped_state(tx, room_id)

    def digest(self, tx: Tx, room_id: str) -> RoomDigest:
        return proof.digest(tx, room_id)

    def standing(self, tx: Tx, room_id: str) -> Standing | None:
        return proof.standing(tx, room_id)

    def plan_healing(self, tx: Tx, room_id: str, *, differed_at: int | None) -> healing.HealingPlan | None:
        return healing.plan(self.context, tx, room_id, differed_at=differed_at)

    def heal(self, tx: Tx, room_id: str, planned: healing.HealingPlan, *, patient: bool) -> healing.Outcome:
        """Posts a healing event, if it is still needed and a local user may."""
        return healing.heal(self.context, tx, room_id, planned, patient=patient)

    def merge_all(self, tx: Tx, room_id: str) -> int:
        """Joins all branches of a room at an operator's word; how many forward extremities there are fewer."""
        return healing.merge_all(self.context, tx, room_id)

    def is_complete(self, tx: Tx, room_id: str) -> bool:
        """Whether the room is held with every ancestor of every event."""
        room = rooms.room(tx, room_id)
        return room is not None and room.complete

    def width(self, tx: Tx, room_id: str) -> int:
        """How many forward extremities the room has."""
        return len(graph_ends.extremities(tx, room_id))
