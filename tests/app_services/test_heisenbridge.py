"""heisenbridge as it is, between a real node and an IRC server: messages go both ways, also after a restart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.app_services.irc_server import MOTD, IrcPerson, irc_server
from tests.app_services.person import person_at
from tests.e2e.devices import NodeProcess

PROGRAM = [sys.executable, "-W", "ignore", "-m", "heisenbridge"]


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


def generate(registration: Path, home: Path) -> None:
    """Lets heisenbridge write its registration."""
    subprocess.run(
        [*PROGRAM, "-c", str(registration), "--generate", "-l", "127.0.0.1", "-p", str(free_port())],
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(home)},
    )


@contextmanager
def heisenbridge(registration: Path, url: str, log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen([*PROGRAM, "-c", str(registration), url], stdout=output, stderr=output)
        try:
            yield
        finally:
            process.kill()
            process.wait(30)


@pytest.mark.timeout(900)
async def test_irc_and_back(tmp_path: Path) -> None:
    registration, log = tmp_path / "registration.yaml", tmp_path / "heisenbridge.log"
    generate(registration, tmp_path)
    arguments = ["--listen=127.0.0.1:0", "--transport=none", "--default-room-version=11"]
    node = NodeProcess(subprocess.Popen, tmp_path, [*arguments, f"--app-service={registration}"]).start(120)
    try:
        async with irc_server() as irc, person_at(node.url, "anna") as anna:
            bridge = f"@heisenbridge:{node.server_name}"
            with heisenbridge(registration, node.url, log):
                control = await anna.room_with(bridge)
                await anna.hears(control, "Howdy")
                for command in ("ADDNETWORK test", f"ADDSERVER test 127.0.0.1 {irc.port}", "OPEN test"):
                    await anna.say(control, command)
                network = await anna.room_named("test")
                await anna.say(network, "NICK anna")
                await anna.say(network, "CONNECT")
                await anna.hears(network, MOTD)
                await anna.say(network, "JOIN #pub")
                channel = await anna.room_named("#pub")

                dora = await IrcPerson.connect(irc.port, "dora")
                dora.send("JOIN #pub")
                ghost = f"@irc_test_dora:{node.server_name}"
                await anna.until(lambda: ghost in anna.members.get(channel, ()), "dora did not come")
                dora.send("PRIVMSG #pub :hello from IRC")
                assert await anna.hears(channel, "hello from IRC") == ghost
                await anna.say(channel, "hello from Matrix")
                assert await dora.hears("hello from Matrix") == ":anna!user@host PRIVMSG #pub :hello from Matrix\r\n"
                dora.send("PRIVMSG anna :between us")
                await anna.until(lambda: any("between us" in str(said) for said in anna.said.values()), "no query")

            with heisenbridge(registration, node.url, log):
                await anna.hears(channel, "Synchronizing members", times=2)
                dora.send("PRIVMSG #pub :are you back?")
                await anna.hears(channel, "are you back?")
                await anna.say(channel, "the bridge is back")
                await dora.hears("the bridge is back")
            await dora.leave()
    except BaseException:
        print(log.read_text()[-5_000:] if log.exists() else "", node.said())
        raise
    finally:
        node.stop()
