"""matrix-js-sdk with its Rust crypto on two nodes, whose link loses three datagrams of ten."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pserver.node.http import HttpServer
from p2pserver.node.simulation import SimulatedMesh
from p2pserver.rooms import edus
from transports.sim import LinkConditions

SCRIPTS = Path(__file__).parent / "js"
STEPS = [
    "cross-signing, secret storage and key backup",
    "an encrypted room",
    "two people compare emoji",
    "a person compares emoji on two devices",
    "history from the key backup",
    "both were away",
    "a device is removed",
]


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where the packages of `package-lock.json` are; whichever worker comes first installs them."""
    npm = shutil.which("npm")
    assert npm is not None, "these tests need Node.js with npm: apt-get install nodejs npm"
    lock, wanted = SCRIPTS / "package-lock.json", SCRIPTS / "node_modules" / ".package-lock.json"
    with (SCRIPTS / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not wanted.exists() or wanted.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run([npm, "ci"], cwd=SCRIPTS, check=True, capture_output=True)
            wanted.touch()
    return wanted.parent


@asynccontextmanager
async def two_doors(loss: float) -> AsyncIterator[tuple[SimulatedMesh, dict[str, str]]]:
    """Two nodes on one link, each with a door for clients: (mesh, URL by node)."""
    conditions = LinkConditions(loss=loss, delay_ms_mean=5.0)
    now_ms = int((time.time() - asyncio.get_running_loop().time()) * 1000)
    mesh = SimulatedMesh(["here", "there"], seed=1, conditions=conditions, wall_start_ms=now_ms)
    await mesh.start()
    doors = {name: HttpServer(each.running.asgi_app(), host="127.0.0.1", port=0) for name, each in mesh.nodes.items()}
    try:
        for door in doors.values():
            await door.start()
        yield mesh, {name: door.url for name, door in doors.items()}
    finally:
        for door in doors.values():
            await door.stop()
        await mesh.stop()


async def story(*, patience_s: int) -> tuple[list[str], str]:
    """Plays the script: (steps that were done, what it complained of)."""
    async with two_doors(loss=0.3) as (mesh, urls):
        script = await asyncio.create_subprocess_exec(
            *("node", str(SCRIPTS / "encrypted_rooms.mjs"), urls["here"], urls["there"]),
            *(mesh.nodes["here"].server_name, str(patience_s)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert script.stdin is not None
        assert script.stdout is not None
        assert script.stderr is not None
        complaints = asyncio.create_task(script.stderr.read())
        done: list[str] = []
        try:
            while line := await script.stdout.readline():
                told = json.loads(line)
                if "done" in told:
                    done.append(told["done"])
                    print(f"{told['done']}: {told['seconds']:.1f} s")
                    continue
                if told["please"] == "part":
                    mesh.partition(["here"], ["there"])
                else:
                    mesh.heal()
                script.stdin.write(b"done\n")
            await script.wait()
        finally:
            if script.returncode is None:
                script.kill()
                await script.wait()
        return done, (await complaints).decode()[-4000:]


@pytest.mark.timeout(900)
async def test_encrypted_rooms_as_people_use_them(node_modules: Path) -> None:
    done, complaints = await story(patience_s=240)
    assert done == STEPS, complaints


async def test_keys_that_are_lost_on_the_way_are_noticed(node_modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edus, "_direct_to_device", lambda *args: None)
    done, complaints = await story(patience_s=15)
    assert done == STEPS[:1]
    assert 'reads "the bridge is out"' in complaints
