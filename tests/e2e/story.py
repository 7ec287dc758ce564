"""The story that two devices must survive: chat, a partition in which both go on, and a merge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.devices import Client, NodeProcess


@dataclass
class Device:
    """A node and who uses it."""

    node: NodeProcess
    clients: list[Client] = field(default_factory=list)

    def client(self, launch: Callable[..., Any], name: str) -> Client:
        client = Client(launch, self.node.url)
        self.clients.append(client)
        client.register(name)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.node.stop()


@dataclass
class Story:
    """Ann (first device) and Ben (second) in one room, with Cal (first device) as the third."""

    ann: Client
    ben: Client
    cal: Client
    room: str = ""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Body -> the event ID that its sender was given."""

    def begin(self) -> None:
        self.room = self.ann.do(
            "create", name="harbor", invite=[self.ben.user_id, self.cal.user_id], room_version="12", seconds=60
        )
        for client in (self.ben, self.cal):
            client.do("wait_invite", room=self.room, seconds=60)
            client.do("join", room=self.room)
        self.ann.do("level", room=self.room, user=self.ben.user_id, level=100)
        self.ben.do("wait_name", room=self.room, name="harbor")

    def both_send(self, label: str, count: int, pause: float = 0.0) -> None:
        """Ann and Ben send at the same time; what is acknowledged is remembered."""
        bodies = {who: [f"{label} {who} {n}" for n in range(count)] for who in ("ann", "ben")}
        answers = {
            who: client.start("send_many", room=self.room, bodies=bodies[who], pause=pause)
            for who, client in (("ann", self.ann), ("ben", self.ben))
        }
        for who, answer in answers.items():
            self.acknowledged.update(zip(bodies[who], answer(170), strict=True))

    def disagree(self) -> None:
        """While they cannot hear each other: both rename the room, Ann bans Cal, Ben makes him a moderator."""
        self.ann.do("state", room=self.room, event_type="m.room.name", content={"name": "ann's harbor"})
        self.ben.do("state", room=self.room, event_type="m.room.name", content={"name": "ben's harbor"})
        self.ben.do("level", room=self.room, user=self.cal.user_id, level=50)
        self.ann.do("ban", room=self.room, user=self.cal.user_id)

    def wait_for_all(self, seconds: float = 120) -> None:
        for client in (self.ann, self.ben):
            client.do("wait_messages", room=self.room, count=len(self.acknowledged), seconds=seconds)

    def check_equal(self, seconds: float = 60) -> dict[str, Any]:
        """Both clients believe the same, and it is what was acknowledged. Returns the view."""
        views = self.settled_views(seconds)
        assert views[0] == views[1]
        assert views[0]["messages"] == sorted(self.acknowledged)
        assert views[0]["event_ids"] == sorted(self.acknowledged.values())
        assert self.ann.do("server_state", room=self.room) == self.ben.do("server_state", room=self.room)
        return dict(views[0])

    def settled_views(self, seconds: float) -> list[dict[str, Any]]:
        """What both believe of the room, once that is equal or the time is up."""

        deadline = time.monotonic() + seconds
        while True:
            views = [client.do("view", room=self.room) for client in (self.ann, self.ben)]
            if views[0] == views[1] or time.monotonic() > deadline:
                return views
            time.sleep(0.5)


@contextmanager
def kills(
    nodes: list[NodeProcess], *, seed: int, every_s: tuple[float, float], lock: threading.Lock
) -> Iterator[list[float]]:
    """While the block runs, a random node is killed with SIGKILL at random moments, and started again."""
    rng = random.Random(seed)
    stop = threading.Event()
    done: list[float] = []
    failed: list[BaseException] = []

    def killer() -> None:
        try:
            while not stop.wait(rng.uniform(*every_s)):
                node = rng.choice(nodes)
                with lock:
                    node.kill()
                    stop.wait(rng.uniform(0.0, 0.5))
                    node.start()
                    done.append(1.0)
        except BaseException as error:  # noqa: BLE001  # re-raised in the test's thread below
            failed.append(error)

    thread = threading.Thread(target=killer, name="killer")
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(60)
    if failed:
        raise failed[0]
