"""Two phones on a trip without any network, and without phones: two nodes on virtual Bluetooth radios.

    pip install -e '.[bumble]'
    python examples/offline_phones.py          tells the story by itself
    python examples/offline_phones.py --stay   then leaves both nodes to your own clients; type part, meet or end

Each node is a whole `p2pserver run` that knows nothing but a Bluetooth controller; both controllers are on one virtual
air (`tests/transports/ble/air_program.py`), in which people walk out of earshot and come back.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 120


class Air:
    """Where the two are: in earshot of each other, or not."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.transports.ble.air_program", "ann", "ben"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports: dict[str, int] = json.loads(self._line())

    def say(self, line: str) -> dict[str, int]:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Phone:
    """A node with one account."""

    def __init__(self, name: str, air_port: int, folder: Path) -> None:
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        transport = f"ble:hci=tcp-client:127.0.0.1:{air_port}"
        options = [f"--data-dir={folder / name}", f"--listen={self.url.removeprefix('http://')}", "--no-rate-limits"]
        self._node = subprocess.Popen(
            [sys.executable, "-m", "p2pserver", "run", f"--transport={transport}", *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._token = ""
        self._sent = 0
        self.password = f"{name}-on-a-trip"
        self.user = ""

    def log_in(self) -> None:
        account = {"username": self.name, "password": self.password, "auth": {"type": "m.login.dummy"}}
        made = wait_for(lambda: self.call("POST", "register", account))
        self.user, self._token = made["user_id"], made["access_token"]

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request of the Client-Server API. Raises: OSError, which urllib's errors are."""
        request = urllib.request.Request(
            f"{self.url}/_matrix/client/v3/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def write(self, room: str, text: str) -> None:
        self._sent += 1
        content = {"msgtype": "m.text", "body": text}
        self.call("PUT", f"rooms/{quoted(room)}/send/m.room.message/{self._sent}", content)
        print(f"  {self.name}: {text}")

    def history(self, room: str) -> list[str]:
        chunk = self.call("GET", f"rooms/{quoted(room)}/messages?dir=b&limit=100")["chunk"]
        return sorted(event["content"]["body"] for event in chunk if event["type"] == "m.room.message")

    def end(self) -> None:
        self._node.terminate()
        self._node.wait()


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def wait_for(attempt: Any) -> Any:
    """The first answer that is neither an error nor empty."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            if found := attempt():
                return found
        except OSError:
            if time.monotonic() > until:
                raise
        if time.monotonic() > until:
            raise TimeoutError("that took too long")
        time.sleep(0.3)


def tell(air: Air, ann: Phone, ben: Phone) -> None:
    for phone in (ann, ben):
        phone.log_in()
    print(f"Two phones, no network: {ann.user[:12]}... and {ben.user[:12]}...\n")
    created = wait_for(lambda: ann.call("POST", "createRoom", {"name": "trip", "invite": [ben.user]}))
    room = created["room_id"]
    wait_for(lambda: ben.call("POST", f"join/{quoted(room)}", {}))
    print("Ann has invited Ben over Bluetooth.")
    ann.write(room, "Shall we meet at the hut?")
    wait_for(lambda: len(ben.history(room)) == 1)
    ben.write(room, "I take the other path.")
    wait_for(lambda: len(ann.history(room)) == 2)
    octets = air.say("part ann ben")["octets"]
    print(f"\nThey walk out of earshot; {octets:,} octets went through the air so far. Both go on writing.")
    ann.write(room, "There is a bear here.")
    ben.write(room, "I found the lake!")
    ben.write(room, "Ann?")
    time.sleep(2)
    print(f"  ann has {len(ann.history(room))} messages, ben {len(ben.history(room))}")
    air.say("meet ann ben")
    print("\nThey meet again.")
    wait_for(lambda: len(ann.history(room)) == len(ben.history(room)) == 5)
    assert ann.history(room) == ben.history(room)
    print("  both have the same five messages:")
    for text in ann.history(room):
        print(f"    {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stay", action="store_true", help="leave the nodes running for clients of your own")
    stay = parser.parse_args().stay
    air = Air()
    with tempfile.TemporaryDirectory() as folder:
        phones = [Phone(name, air.ports[name], Path(folder)) for name in ("ann", "ben")]
        try:
            tell(air, *phones)
            if stay:
                for phone in phones:
                    print(f"\n{phone.user}\n  password {phone.password}, homeserver {phone.url}")
                print("\ntype part, meet or end")
                while (word := sys.stdin.readline().strip()) not in ("", "end"):
                    if word in ("part", "meet"):
                        print(air.say(f"{word} ann ben"))
        finally:
            for phone in phones:
                phone.end()
            air.end()


if __name__ == "__main__":
    main()
