"""`p2pserver debug …` on the vector files, and on files that are wrong in every way."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pserver.cli import cli
from p2pserver.commands.event_check import cases_of, check
from p2pserver.commands.scenario import Scenario, nested
from p2pserver.events.versions import ROOM_VERSIONS
from tests.meg.vector_checks import STATE_RES, VECTORS, state_res_file, table, trace_failures
from tests.rooms.test_verification import town_of

ROOM = "duelling_admins_v12"
KEPT = ("room_version", "servers", "states", "room_id")


def debug(*arguments: str, typed: str | None = None) -> Result:
    result = CliRunner().invoke(cli, ["debug", *arguments], input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def question(name: str) -> dict[str, Any]:
    """A vector file without its answers."""
    data = state_res_file(name)
    return {
        **{key: data[key] for key in KEPT},
        "events": [{"pdu": entry["pdu"]} for entry in data["events"]],
        "resolutions": [{"name": each["name"], "state_sets": each["state_sets"]} for each in data["resolutions"]],
    }


# resolve


@pytest.mark.parametrize("name", STATE_RES)
def test_every_resolution_of_the_vectors_comes_out_as_expected(name: str) -> None:
    data = state_res_file(name)
    scenario = Scenario.of(question(name))
    assert scenario.warnings == []
    expected = [{"state": data["states"][each["expected"]]} for each in data["resolutions"]]
    assert scenario.answer(trace=False) == {"resolutions": expected}
    traced = scenario.answer(trace=True)
    for case, ours in zip(data["resolutions"], traced["resolutions"], strict=True):
        assert (ours["name"], ours["state"]) == (case["name"], data["states"][case["expected"]])
        steps = {**ours["trace"], "conflicted_keys": [tuple(each) for each in ours["trace"]["conflicted_keys"]]}
        expected_power = case["trace"].get("state_after_power")
        if expected_power is not None:
            assert steps["state_after_power"] == expected_power
        assert trace_failures({**steps, "state_after_power": None}, without_state(case["trace"])) == []
        order = [*steps["power_order"], *steps["rest_order"]]
        assert [each["event_id"] for each in steps["auth_decisions"]] == order
        assert all(each["allowed"] == (each["reason"] is None) for each in steps["auth_decisions"])
        allowed = {each["event_id"] for each in steps["auth_decisions"] if each["allowed"]}
        contested = {ours["state"].get(kind, {}).get(key) for kind, key in steps["conflicted_keys"]}
        assert contested - {None} <= allowed
    for entry, ours in zip(data["events"], sorted_like(data, traced["events"]), strict=True):
        assert ours["verdict"] == ("accepted" if entry["verdict"] == "accepted" else "rejected")
        assert ours["state_before"] == data["states"][entry["state_before"]]
        assert ours["state_after"] == data["states"][entry["state_after"]]


def without_state(trace: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trace.items() if key != "state_after_power"}


def sorted_like(data: dict[str, Any], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_id = {each["event_id"]: each for each in events}
    return [by_id[entry["event_id"]] for entry in data["events"]]


def test_the_order_of_the_events_does_not_matter() -> None:
    asked = question(ROOM)
    asked["events"].reverse()
    assert Scenario.of(asked).answer(trace=False) == Scenario.of(question(ROOM)).answer(trace=False)


def test_the_command_prints_json_and_nothing_else() -> None:
    path = VECTORS / "state_res" / f"{ROOM}.json"
    started = subprocess.run(
        [sys.executable, "-m", "p2pserver", "debug", "resolve", str(path)], capture_output=True, text=True, check=True
    )
    data = state_res_file(ROOM)
    expected = [{"state": data["states"][each["expected"]]} for each in data["resolutions"]]
    assert json.loads(started.stdout) == {"resolutions": expected}
    assert started.stderr == ""
    typed = debug("resolve", "-", "--trace", typed=json.dumps(question(ROOM)))
    assert json.loads(typed.stdout)["resolutions"][0]["trace"]["power_order"]


def test_a_wrong_auth_rule_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the comparison above can fail."""
    from p2pserver.meg import replay

    monkeypatch.setattr(replay, "authorize", lambda *arguments, **options: None)
    with pytest.raises(AssertionError):
        test_every_resolution_of_the_vectors_comes_out_as_expected("rejected_fork_v12")


@pytest.mark.parametrize("version", ["1", "3", "6", "11"])
def test_rooms_of_every_version_come_out_as_a_node_holds_them(version: str) -> None:
    town = town_of(version)
    rows = town.conn.execute("SELECT event_id, raw, verdict FROM events WHERE outlier = 0 ORDER BY depth").fetchall()
    states = [
        nested(town.server.run(lambda tx, each=each: town.server.rooms.state_after(tx, each[0]))) for each in rows
    ]
    leaves = [number for number, row in enumerate(rows) if row[0] in (town.topic, town.late)]
    told = {
        "room_version": version,
        "events": [{"event_id": row[0], "pdu": json.loads(row[1])} for row in rows],
        "states": states,
        "resolutions": [{"state_sets": leaves}],
    }
    found = json.loads(debug("resolve", "-", "--trace", typed=json.dumps(told)).stdout)
    assert {each["event_id"]: each["verdict"] == "rejected" for each in found["events"]} == {
        event_id: verdict == "rejected" for event_id, _, verdict in rows
    }
    after = {each["event_id"]: each["state_after"] for each in found["events"]}
    assert [after[row[0]] for row in rows] == states
    current = town.server.run(lambda tx: town.server.rooms.current_state(tx, town.room_id))
    assert found["resolutions"][0]["state"] == nested(current)
    assert found["resolutions"][0]["trace"]["conflicted_keys"]


def broken(what: str) -> Any:
    data: Any = copy.deepcopy(question(ROOM))
    events, resolutions = data["events"], data["resolutions"]
    match what:
        case "no object":
            data = []
        case "no version":
            del data["room_version"]
        case "an unknown version":
            data["room_version"] = "org.example.13"
        case "no events":
            del data["events"]
        case "an event that is none":
            events[2] = 7
        case "a missing parent":
            del events[3]
        case "a wrong signature":
            events[1]["pdu"]["signatures"]["s1.example"]["ed25519:1"] = "A" * 86
        case "another sender":
            events[1]["pdu"]["sender"] = "@mallory:s1.example"
        case "another event ID":
            events[1]["event_id"] = "$" + "x" * 43
        case "a state of unknown events":
            data["states"][3]["m.room.name"] = {"": "$nobody"}
        case "a state with an event in the wrong slot":
            data["states"][3]["m.room.name"] = {"": data["states"][3]["m.room.create"][""]}
        case "an index beyond the states":
            resolutions[0]["state_sets"][0] = len(data["states"])
        case "an index that is none":
            resolutions[0]["state_sets"][0] = True
        case "no state sets":
            del resolutions[0]["state_sets"]
        case "a broken key":
            data["servers"]["s1.example"]["verify_key"] = "AAAA"
        case "servers that are none":
            data["servers"] = [1]
    return data


BROKEN = {
    "no object": "not a JSON object",
    "no version": "`room_version`",
    "an unknown version": "org.example.13",
    "no events": "`events` is missing",
    "an event that is none": "number 2",
    "a missing parent": "not among the `events`",
    "a wrong signature": "no valid signature of s1.example",
    "another sender": "number 1",
    "another event ID": "its ID is",
    "a state of unknown events": "$nobody",
    "a state with an event in the wrong slot": "m.room.name",
    "an index beyond the states": "no index into `states`",
    "an index that is none": "no index into `states`",
    "no state sets": "`state_sets`",
    "a broken key": "32 octets",
    "servers that are none": "`servers`",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_scenario_is_one_line_and_exit_status_2(what: str) -> None:
    result = debug("resolve", "-", typed=json.dumps(broken(what)))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert BROKEN[what] in result.stderr


@pytest.mark.parametrize("command", ["resolve", "check-event"])
@pytest.mark.parametrize(
    "text", ["", '{"events": [', "[" * 100_000, "\xff", '{"a": ' + "9" * 5000 + "}", "7", '{"cases": [3]}']
)
def test_what_is_no_file_of_this_kind_is_one_line(tmp_path: Path, command: str, text: str) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(text.encode("latin-1"))
    for path in (str(file), str(tmp_path), str(tmp_path / "nothing")):
        result = debug(command, path)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
        assert result.stderr.startswith("p2pserver: ")


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        (lambda text: text.replace('"depth":', '"depth": 1, "depth":', 1).encode(), "the name 'depth' occurs twice"),
        (lambda text: text.encode("utf-16"), "is not UTF-8"),
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "is not JSON"),
    ],
    ids=["a name twice", "utf-16", "byte order mark"],
)
def test_a_good_event_in_a_text_that_no_event_may_have_is_no_event(spelled: Any, said: str) -> None:
    genuine = next(case for case in table("tamper")["cases"] if case["must"] == "accept")
    text = json.dumps(genuine)
    assert debug("check-event", "-", typed=text).stdout.endswith("accepted\n")
    result = debug("check-event", "-", typed=spelled(text))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert said in result.stderr


def test_signatures_of_unknown_servers_are_believed_and_warned_of() -> None:
    asked = question(ROOM)
    answer = Scenario.of(asked).answer(trace=False)
    del asked["servers"]
    result = debug("resolve", "-", typed=json.dumps(asked))
    assert json.loads(result.stdout) == answer
    assert "s1.example" in result.stderr
    assert result.stderr.count("\n") == 1


# check-event


def test_every_tampered_event_earns_what_it_must() -> None:
    data = table("tamper")
    data = {"cases": [case for case in data["cases"] if case["room_version"] in ROOM_VERSIONS]}
    assert len(data["cases"]) > 20
    cases, is_list = cases_of(data, version=None, beside=[])
    assert is_list
    must = {"accept": "accepted", "use redacted": "redacted copy", "drop": "dropped"}
    for case, told in zip(cases, data["cases"], strict=True):
        found = check(case)
        assert found.verdict == must[told["must"]], told["what"]
        if found.examination.event_id is not None and found.verdict != "dropped":
            assert found.examination.content_hash == told["content_hash_valid"], told["what"]
        said = [each for own in found.examination.signatures.values() for each in own.values()]
        if said and told["signature_valid"]:
            assert "valid" in said, told["what"]


def test_auth_events_in_the_file_are_judged_by() -> None:
    checked = 0
    for told in table("auth_events_checks")["cases"]:
        if told["room_version"] not in ROOM_VERSIONS:
            continue
        raw = dict(told)
        raw["servers"] = keys_of_vectors(raw)
        [case], _ = cases_of(raw, version=None, beside=[])
        found = check(case)
        if found.auth.startswith("not judged"):
            continue
        checked += 1
        if told["must"] == "reject":
            assert found.verdict == "rejected", told["what"]
        else:
            assert (found.reason or "").startswith("by its auth events") or found.verdict == "accepted", told["what"]
    assert checked > 20


def keys_of_vectors(case: dict[str, Any]) -> dict[str, Any]:
    import base64
    import hashlib

    from p2pserver.events.signing import Signer

    servers = {each["pdu"]["sender"].partition(":")[2] for each in [*case["auth_chain"], case]}
    keys = {
        server: Signer(server, "ed25519:1", hashlib.sha256(f"meg-vectors|{server}|1".encode()).digest())
        for server in servers
    }
    return {
        server: {"key_id": "ed25519:1", "verify_key": base64.b64encode(signer.verify_key).decode()}
        for server, signer in keys.items()
    }


def one_event() -> dict[str, Any]:
    """The first power levels of a vector room with their auth events and the state before them."""
    data = state_res_file(ROOM)
    by_id = {entry["event_id"]: entry["pdu"] for entry in data["events"]}
    entry = next(each for each in data["events"] if each["pdu"]["type"] == "m.room.power_levels")
    state = data["states"][entry["state_before"]]
    return {
        "pdu": entry["pdu"],
        "servers": data["servers"],
        "auth_events": [by_id[each] for each in entry["pdu"]["auth_events"]] + [data["events"][0]["pdu"]],
        "state": [by_id[each] for keys in state.values() for each in keys.values()],
    }


def verdict(told: dict[str, Any], *arguments: str) -> dict[str, Any]:
    result = debug("check-event", "-", "--json", *arguments, typed=json.dumps(told))
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_version_is_taken_from_the_create_event_or_the_command_line() -> None:
    told = one_event()
    assert verdict(told)["room_version"] == "12"
    assert verdict(told)["auth"] == "judged by its auth events and by the state"
    bare = {"pdu": told["pdu"], "servers": told["servers"]}
    unknown = debug("check-event", "-", typed=json.dumps(bare))
    assert (unknown.exit_code, "--room-version" in unknown.stderr) == (2, True)
    found = verdict(bare, "--room-version", "12")
    assert (found["verdict"], found["auth"][:10]) == ("accepted", "not judged")
    assert debug("check-event", "-", "--room-version", "x", typed=json.dumps(bare)).exit_code == 2


def test_a_state_that_forbids_the_event_rejects_it(tmp_path: Path) -> None:
    told = one_event()
    assert verdict(told)["verdict"] == "accepted"
    sender = told["pdu"]["sender"]
    told["state"] = [each for each in told["state"] if each.get("state_key") != sender]
    found = verdict(told)
    assert found["verdict"] == "rejected"
    assert "is not in the room" in found["reason"]
    beside = tmp_path / "auth.json"
    beside.write_text(json.dumps(told.pop("auth_events")))
    told.pop("state")
    assert verdict(told, "--room-version", "12")["auth"].startswith("not judged")
    assert verdict(told, "--auth", str(beside))["auth"] == "judged by its auth events; no state was given"


def test_a_person_reads_why() -> None:
    told = one_event()
    told["pdu"] = {**told["pdu"], "content": {**told["pdu"]["content"], "extra": "\x1b[2J"}}
    shown = debug("check-event", "-", typed=json.dumps(told))
    assert shown.exit_code == 0
    assert "verdict    redacted copy: the content does not match its hash" in shown.stdout
    assert "ed25519:1: valid" in shown.stdout
    told["pdu"] = {**told["pdu"], "sender": "@\x1b[2J:s1.example"}
    shown = debug("check-event", "-", typed=json.dumps(told))
    assert "verdict    dropped: " in shown.stdout
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize("value", [None, 7, "text", [], {}, {"type": 3}, {"signatures": {"a": {"b": 3}}}])
def test_anything_may_be_called_a_pdu(value: object) -> None:
    told = {"pdu": value, "room_version": "12"}
    assert verdict(told)["verdict"] == "dropped"


def test_the_states_of_the_answer_are_nested_and_sorted() -> None:
    assert list(nested({("b", ""): "$1", ("a", "y"): "$2", ("a", "x"): "$3"}).items()) == [
        ("a", {"x": "$3", "y": "$2"}),
        ("b", {"": "$1"}),
    ]
