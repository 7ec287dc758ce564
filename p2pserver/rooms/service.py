"""Rooms: every use case of a room, as plain functions inside a unit of work of the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from p2pserver.errors import Unrecognized, Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import KeyLookup, Signer
from p2pserver.meg.clock import HybridClock
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.values import ReceiveReport, RoomDigest, RoomLimits
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
        raise Unrecognized("not built yet")

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
    ) -> Pdu:
        """Builds an event on the forward extremities, authorizes and keeps it, and owes it to every member server."""
        raise Unrecognized("not built yet")

    def invite_payload(self, tx: Tx, event_id: str) -> dict[str, Any]:
        """What goes with an invite of ours to `store.outbox.queue_invite`: {room_version, event, invite_room_state}."""
        raise Unrecognized("not built yet")

    def join_offer(self, tx: Tx, *, origin: str, room_id: str, user_id: str, versions: list[str]) -> dict[str, Any]:
        """What a server needs to join one of its users to a room of ours, in one answer."""
        raise Unrecognized("not built yet")

    def join_with(self, tx: Tx, *, user_id: str, offer: dict[str, Any], resident: str, content: dict[str, Any]) -> Pdu:
        """Joins a local user with the offer of a resident server."""
        raise Unrecognized("not built yet")

    def receive_invite(self, tx: Tx, *, origin: str, payload: dict[str, Any]) -> Verdict:
        """Takes an invite for a local user to a room that need not be held here."""
        raise Unrecognized("not built yet")

    def decline_invite(self, tx: Tx, *, user_id: str, room_id: str) -> None:
        """Refuses an invite to a room that is not held here."""
        raise Unrecognized("not built yet")

    def receive(
        self, tx: Tx, *, room_id: str, raws: Sequence[object], source: str, backfill: bool = False
    ) -> ReceiveReport:
        """Judges PDUs that `source` brought (whoever made them)."""
        raise Unrecognized("not built yet")

    def leaves(self, tx: Tx, room_id: str) -> list[str]:
        raise Unrecognized("not built yet")

    def have_sample(self, tx: Tx, room_id: str, most: int = 64) -> list[str]:
        raise Unrecognized("not built yet")

    def missing_for(
        self, tx: Tx, *, room_id: str, want: list[str], have: list[str], octets_max: int, origin: str
    ) -> tuple[list[dict[str, Any]], bool]:
        raise Unrecognized("not built yet")

    def wanted(self, tx: Tx, room_id: str) -> list[str]:
        raise Unrecognized("not built yet")

    def nobody_has(self, tx: Tx, *, room_id: str, event_ids: list[str], source: str) -> list[str]:
        """Notes that `source` could not serve these; returns held-up events to ask it a "state_claim" for."""
        raise Unrecognized("not built yet")

    def state_claim(self, tx: Tx, *, room_id: str, event_id: str, origin: str) -> dict[str, Any]:
        raise Unrecognized("not built yet")

    def accept_state_claim(
        self, tx: Tx, *, room_id: str, event_id: str, claim: dict[str, Any], source: str
    ) -> ReceiveReport:
        raise Unrecognized("not built yet")

    def member_servers(self, tx: Tx, room_id: str) -> set[str]:
        raise Unrecognized("not built yet")

    def rooms_with(self, tx: Tx, server: str) -> list[str]:
        raise Unrecognized("not built yet")

    def may_see_room(self, tx: Tx, server: str, room_id: str) -> bool:
        raise Unrecognized("not built yet")

    def event(self, tx: Tx, event_id: str) -> Pdu:
        raise Unrecognized("not built yet")

    def stored(self, tx: Tx, event_id: str) -> StoredEvent | None:
        raise Unrecognized("not built yet")

    def current_state(self, tx: Tx, room_id: str) -> dict[StateSlot, str]:
        raise Unrecognized("not built yet")

    def current_event(self, tx: Tx, room_id: str, event_type: str, state_key: str = "") -> Pdu | None:
        raise Unrecognized("not built yet")

    def state_before(self, tx: Tx, event_id: str) -> dict[StateSlot, str]:
        raise Unrecognized("not built yet")

    def state_after(self, tx: Tx, event_id: str) -> dict[StateSlot, str]:
        raise Unrecognized("not built yet")

    def power_levels(self, tx: Tx, room_id: str) -> PowerLevels:
        raise Unrecognized("not built yet")

    def membership(self, tx: Tx, room_id: str, user_id: str) -> str | None:
        raise Unrecognized("not built yet")

    def visible_to(self, tx: Tx, user_id: str, events: Sequence[StoredEvent]) -> list[bool]:
        raise Unrecognized("not built yet")

    def stripped_state(self, tx: Tx, room_id: str) -> list[dict[str, Any]]:
        raise Unrecognized("not built yet")

    def digest(self, tx: Tx, room_id: str) -> RoomDigest:
        raise Unrecognized("not built yet")
