"""What all use cases of rooms share: who this node is, its clock and chance, its bounds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from p2pserver.events.signing import KeyLookup, Signer
from p2pserver.identifiers import server_of
from p2pserver.meg.clock import HybridClock
from p2pserver.rooms.values import RoomLimits
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomContext:
    """`wall_ms` reads the wall clock; `user_exists` tells whether a user ID has an account on this node."""

    signer: Signer
    keys: KeyLookup
    clock: HybridClock
    wall_ms: Callable[[], int]
    rng: random.Random
    user_exists: Callable[[Tx, str], bool]
    limits: RoomLimits

    @property
    def server_name(self) -> str:
        return self.signer.server_name

    def is_local(self, user_id: str) -> bool:
        return server_of(user_id) == self.signer.server_name
