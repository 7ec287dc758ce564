"""matrix-js-sdk with its Rust crypto on two nodes, whose link loses three datagrams of ten."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from p2pserver.rooms import edus
from tests.e2e.doors import SCRIPTS, two_doors

STEPS = [
    "cross-signing, secret storage and key backup",
    "an encrypted room",
    "two people compare emoji",
    "a person compares emoji on two devices",
    "history from the key backup",
    "written while she was logged in nowhere",
    "both were away",
    "a device is removed",
]


async def story(*, patience_s: int) -> tuple[list[str], str]:
    """Plays the script: (steps that were done, what it complained of)."""
    async with two_doors(loss=0.3) as (mesh, urls):
        script = await asyncio.create_subprocess_exec(
            *("node", str(SCRIPTS / "encrypted_rooms.mjs"), urls["here"], urls["there"]),
            *(mesh.nodes["here"].server_name, str(patience_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
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
