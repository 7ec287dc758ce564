"""synadm, the operators' tool for Synapse, as it is: real processes against a real node."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import call, command, log_in
from tests.e2e.devices import NodeProcess

PASSWORD = "first password"


class Synadm:
    """Runs synadm with a configuration that names the node and an admin's token, and nothing else."""

    def __init__(self, node: NodeProcess, token: str, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "synadm.yaml"
        settings = {"user": "root", "token": token, "base_url": node.url, "format": "json"}
        self._file.write_text(json.dumps(settings))

    def said(self, *arguments: str) -> str:
        """What a command prints."""
        program = [sys.executable, "-W", "ignore", "-m", "synadm", "--batch", "-o", "json", "-c", str(self._file)]
        done = subprocess.run(
            [*program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "HOME": str(self._folder)},
        )
        assert done.stdout, (arguments, done.stderr)
        return done.stdout

    def __call__(self, *arguments: str) -> Any:
        """The last JSON value that it prints: some commands first show what there was before."""
        said = self.said(*arguments)
        values = [part for part in re.split(r"^(?=[{\[])", said, flags=re.MULTILINE) if part[:1] in ("{", "[")]
        assert values, (arguments, said)
        value = json.JSONDecoder().raw_decode(values[-1])[0]
        assert "errcode" not in value, (arguments, value)
        return value

    def until(self, status: str, *arguments: str) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self(*arguments)
            if answer["status"] == status:
                return answer
        raise AssertionError(answer)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    started = NodeProcess(subprocess.Popen, tmp_path, ["--listen=127.0.0.1:0", "--transport=none"]).start()
    try:
        yield started
    finally:
        started.stop()


@pytest.mark.timeout(900)
def test_an_operators_day(node: NodeProcess, tmp_path: Path) -> None:
    made = command("register", "root", "--admin", "--password", PASSWORD, folder=node.folder / "data")
    assert made.returncode == 0, made.stderr
    _, root = log_in(node, "root", PASSWORD)
    synadm = Synadm(node, root["access_token"], tmp_path)
    name = node.server_name

    assert synadm("version")["server_version"].startswith("p2pserver ")

    # Accounts. Names are local parts: synadm asks the node for its name.
    created = synadm("user", "modify", "anna", "-P", PASSWORD, "-n", "Anna")
    assert (created["name"], created["displayname"], created["admin"]) == (f"@anna:{name}", "Anna", False)
    listed = synadm("user", "list")
    assert [user["name"] for user in listed["users"]] == [f"@anna:{name}", root["user_id"]]
    assert synadm("user", "details", "anna")["deactivated"] is False
    _, anna = log_in(node, "anna", PASSWORD)
    assert synadm("user", "password", "anna", "-p", "second password") == {}
    assert log_in(node, "anna", PASSWORD)[0] == 403
    _, anna = log_in(node, "anna", "second password")
    synadm("user", "shadow-ban", "anna")
    assert synadm("user", "details", "anna")["shadow_banned"] is True
    synadm("user", "shadow-ban", "-u", "anna")
    whois = synadm("user", "whois", "anna")
    assert list(whois["devices"]) == [anna["device_id"]]
    # "Prune" lists what it would delete; with the least age and survivors it deletes the old ones.
    _, other = log_in(node, "anna", "second password")
    pruned = synadm("user", "prune-devices", f"@anna:{name}", "-i", other["device_id"])
    assert [device["device_id"] for device in pruned] == [other["device_id"]]
    acting = synadm("user", "login", "anna")["access_token"]
    assert call(f"{node.url}/_matrix/client/v3/account/whoami", token=acting)[1]["user_id"] == f"@anna:{name}"

    # Rooms.
    url = f"{node.url}/_matrix/client/v3"
    token = anna["access_token"]
    _, harbor = call(f"{url}/createRoom", "POST", {"name": "harbor", "room_alias_name": "harbor"}, token=token)
    room_id = harbor["room_id"]
    sent = [
        call(f"{url}/rooms/{room_id}/send/m.room.message/{n}", "PUT", {"msgtype": "m.text", "body": f"m{n}"}, token)[1]
        for n in range(3)
    ]
    rooms = synadm("room", "list")
    assert [(room["name"], room["joined_members"]) for room in rooms["rooms"]] == [("harbor", 1)]
    assert synadm("room", "search", "harb")["total_rooms"] == 1
    assert synadm("room", "details", room_id)["creator"] == f"@anna:{name}"
    assert synadm("room", "members", room_id)["members"] == [f"@anna:{name}"]
    assert "m.room.create" in {event["type"] for event in synadm("room", "state", room_id)["state"]}
    assert synadm("room", "resolve", room_id, "-r")["aliases"] == [f"#harbor:{name}"]
    assert synadm("user", "membership", "--aliases", "anna")["joined_rooms"] == [f"#harbor:{name}"]
    assert synadm("room", "make-admin", room_id, "-u", "root") == {}
    assert synadm("room", "join", room_id, "root") == {"room_id": room_id}
    levels = synadm("room", "power-levels", "-i", room_id)
    assert levels["rooms"][0]["power_levels"][root["user_id"]] == 100

    # History.
    purge = synadm("history", "purge", room_id, "-i", sent[2]["event_id"], "--delete-local")
    synadm.until("complete", "history", "purge-status", purge["purge_id"])
    event = f"{url}/rooms/{room_id}/event/"
    assert call(event + sent[0]["event_id"], token=token)[0] == 404
    assert call(event + sent[2]["event_id"], token=token)[1]["content"]["body"] == "m2"

    # Media.
    status, uploaded = call(f"{node.url}/_matrix/media/v3/upload?filename=a.json", "POST", {"some": "json"}, token)
    assert status == 200, uploaded
    media_id = uploaded["content_uri"].rpartition("/")[2]
    assert synadm("media", "list", "-u", "anna")["media"][0]["media_id"] == media_id
    assert synadm("media", "quarantine", "-i", media_id) == {}
    download = f"{node.url}/_matrix/client/v1/media/download/{name}/{media_id}"
    assert call(download, token=token)[0] == 404
    assert synadm("media", "unquarantine", "-i", media_id) == {}
    assert call(download, token=token)[0] == 200
    assert synadm("media", "delete", "-i", media_id) == {"deleted_media": [media_id], "total": 1}

    # Registration tokens and notices.
    assert synadm("regtok", "new", "-n", "welcome", "-u", "3")["uses_allowed"] == 3
    assert synadm("regtok", "update", "welcome", "-u", "-1")["uses_allowed"] is None
    assert synadm("regtok", "list")["registration_tokens"][0]["token"] == "welcome"
    assert "deleted" in synadm.said("regtok", "delete", "welcome")
    assert synadm("regtok", "list")["registration_tokens"] == []
    assert "event_id" in synadm("notice", "send", "anna", "The node moves on Sunday.")[0]

    # The end of the room and of the account.
    assert synadm("room", "block", room_id) == {"block": True}
    assert synadm("room", "block-status", room_id)["block"] is True
    deleted = synadm("room", "delete", room_id)
    done = synadm.until("complete", "room", "delete-status", "-d", deleted["delete_id"])
    assert done["shutdown_room"]["kicked_users"] == [f"@anna:{name}", root["user_id"]]
    assert call(f"{url}/join/{room_id}", "POST", {}, token)[0] == 403
    assert synadm("user", "deactivate", "anna", "-e")["id_server_unbind_result"] == "no-support"
    assert log_in(node, "anna", "second password") == (
        403,
        {"errcode": "M_USER_DEACTIVATED", "error": "this account is deactivated"},
    )
    assert synadm("user", "details", "anna")["erased"] is True
