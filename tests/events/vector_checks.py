"""Checks against the golden vectors, as functions that return what is wrong, to be called under sabotage too."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from p2pserver.events import canonical, hashing, receipt, redaction, signing
from p2pserver.events.unpadded_base64 import decode_base64
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules

VECTORS = Path(__file__).parent.parent / "vectors"
VERSIONS = tuple(ROOM_VERSIONS)


@cache
def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


class OneKey:
    """One server's key, under `ed25519:1`."""

    def __init__(self, server_name: str, verify_key: bytes) -> None:
        self.server_name = server_name
        self.key = verify_key

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        return self.key if (server_name, key_id) == (self.server_name, "ed25519:1") else None


class SeededKeys:
    """The keys of the generated rooms, whose seed is a hash of the server's name."""

    @cache  # noqa: B019 one instance lives as long as the module
    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        seed = hashlib.sha256(f"meg-vectors|{server_name}|1".encode()).digest()
        return signing.Signer(server_name, key_id, seed).verify_key if key_id == "ed25519:1" else None


SEEDED_KEYS = SeededKeys()


def covered(name: str, key: str) -> list[str]:
    """The room versions of which a vector file has cases, oldest first; all of them are known here."""
    found = {case["room_version"] for case in load(name)[key]}
    assert found <= set(VERSIONS), found
    return sorted(found, key=int)


def of_version(cases: list[dict[str, Any]], version: str) -> Iterator[tuple[dict[str, Any], RoomVersionRules]]:
    """The cases of a room version, of which there must be some."""
    chosen = [case for case in cases if case["room_version"] == version]
    assert chosen, f"no vectors for room version {version}"
    for case in chosen:
        yield case, ROOM_VERSIONS[version]


def verdict_of(pdu: object, rules: RoomVersionRules, keys: signing.KeyLookup) -> str:
    try:
        received = receipt.check_on_receipt(pdu, rules, keys)
    except receipt.PduDropped:
        return "drop"
    return "use redacted" if received.redacted_copy else "accept"


def canonical_failures() -> list[str]:
    """Published and generated texts, read as event JSON where that allows them (it refuses `-0`)."""
    vectors = load("canonical_json")
    failures = []
    for case in vectors["spec"] + vectors["fixed"] + vectors["generated"]:
        text = case["input"].encode("utf-8")
        decode = canonical.decode_body if case["input"] == '{"a":-0}' else canonical.decode_strict
        try:
            encoded = canonical.encode_canonical(decode(text))
        except canonical.NotCanonical as error:
            failures.append(f"{case['input'][:60]!r} refused: {error}")
            continue
        if encoded != case["canonical"].encode("utf-8"):
            failures.append(f"{case['input'][:60]!r} encoded as {encoded[:60]!r}")
        if hashlib.sha256(encoded).hexdigest() != case["canonical_sha256"]:
            failures.append(f"{case['input'][:60]!r} has another hash")
    return failures


def accepted_though_to_be_rejected() -> list[str]:
    failures = []
    for case in load("canonical_json")["reject_as_event_json"]:
        try:
            canonical.decode_strict(base64.b64decode(case["raw_base64"]))
        except canonical.NotCanonical:
            continue
        failures.append(case["description"])
    return failures


def published_signing_failures() -> list[str]:
    """The appendices' vectors. Two events of them have no `event_id`, so that they are no whole events of version 1."""
    vectors = load("signing")
    signer = signing.Signer("domain", "ed25519:1", decode_base64(vectors["seed_spec"]))
    failures = []
    if signer.verify_key != decode_base64(vectors["verify_key_spec"]):
        failures.append("verify key")
    for case in vectors["sign_json"]:
        signed = signing.sign_json(case["object"], signer)
        if signed != case["signed"]:
            failures.append(f"sign_json {case['object']}")
        if not signing.signature_is_valid(case["signed"], "domain", "ed25519:1", signer.verify_key):
            failures.append(f"signature_is_valid {case['object']}")
    failures += [
        case["source"]
        for case in vectors["spec_events"]
        if signing.sign_event(case["unsigned_event"], ROOM_VERSIONS[case["room_version"]], signer)
        != case["signed_event"]
    ]
    return failures


def signing_failures(version: str) -> list[str]:
    failures = []
    for case, rules in of_version(load("signing")["events"], version):
        what = case["unsigned_event"]["type"]
        signer = signing.Signer(case["server"], case["key_id"], decode_base64(case["seed_base64"]))
        if signer.verify_key != decode_base64(case["verify_key"]):
            failures.append(f"{what}: verify key")
        if hashing.content_hash(case["unsigned_event"], rules) != case["content_hash"]:
            failures.append(f"{what}: content hash")
        signed = signing.sign_event(case["unsigned_event"], rules, signer)
        if hashlib.sha256(hashing.protected_octets(signed, rules)).hexdigest() != case["bytes_signed_sha256"]:
            failures.append(f"{what}: bytes signed")
        if signed["signatures"][case["server"]][case["key_id"]] != case["signature"]:
            failures.append(f"{what}: signature")
        # One is a join under an event ID of another server (until 2), which lets it in (from 8 on): it must sign too.
        two = "join_authorised_via_users_server" in signed["content"] and (rules.restricted_joins or version in "12")
        expected = "drop" if two else "accept"
        if verdict_of(signed, rules, OneKey(case["server"], signer.verify_key)) != expected:
            failures.append(f"{what}: verdict")
    return failures


def event_id_failures(version: str) -> list[str]:
    failures = []
    for case, rules in of_version(load("event_ids")["events"], version):
        pdu = case["pdu"]
        if hashing.content_hash(pdu, rules) != case["content_hash"]:
            failures.append(f"{pdu['type']}: content hash")
        if hashing.reference_hash(pdu, rules) != decode_base64(case["reference_hash_base64"]):
            failures.append(f"{pdu['type']}: reference hash")
        if hashing.event_id_of(pdu, rules) != case["event_id"]:
            failures.append(f"{pdu['type']}: event ID")
        expected_room = pdu.get("room_id", "!" + case["event_id"][1:])
        if pdu["type"] == "m.room.create" and hashing.room_id_of_create(pdu, rules) != expected_room:
            failures.append(f"{pdu['type']}: room ID")
        if receipt.load_pdu(pdu, rules).event_id != case["event_id"]:
            failures.append(f"{pdu['type']}: event ID of the loaded PDU")
    return failures


def twin_failures(version: str) -> list[str]:
    """Two PDUs with one ID and two valid signatures: the one with the lying content hash is used only redacted."""
    failures = []
    for case, rules in of_version(load("event_ids")["same_id_twins"], version):
        what = case["genuine"]["type"]
        keys = OneKey(case["genuine"]["sender"].partition(":")[2], decode_base64(case["verify_key"]))
        try:
            genuine = receipt.check_on_receipt(case["genuine"], rules, keys)
            twin = receipt.check_on_receipt(case["twin"], rules, keys)
        except receipt.PduDropped as error:
            failures.append(f"{what}: dropped, {error.reason}")
            continue
        if genuine.event_id != case["event_id"] or twin.event_id != case["event_id"]:
            failures.append(f"{what}: event ID")
        if genuine.redacted_copy or genuine.raw != without_unsigned(case["genuine"]):
            failures.append(f"{what}: the genuine copy is not used as it is")
        if not twin.redacted_copy or twin.raw != case["twin_redacted"]:
            failures.append(f"{what}: the twin is not used redacted")
    return failures


def redaction_failures(version: str) -> list[str]:
    return [
        case["type"]
        for case, rules in of_version(load("redaction")["cases"], version)
        if redaction.redact(case["event"], rules) != case["redacted"]
    ]


def tamper_failures(version: str) -> list[str]:
    failures = []
    for case, rules in of_version(load("tamper")["cases"], version):
        verdict = verdict_of(case["pdu"], rules, OneKey(case["server"], decode_base64(case["verify_key"])))
        if verdict != case["must"]:
            failures.append(f"{case['what']}: {verdict}, must {case['must']}")
    return failures


def signed_room_failures() -> tuple[int, list[str]]:
    """Every PDU of the state resolution rooms: how many there are, and which do not verify or have another ID."""
    count, failures = 0, []
    for path in sorted((VECTORS / "state_res").glob("*.json")):
        room = json.loads(path.read_text("utf-8"))
        rules = ROOM_VERSIONS[room["room_version"]]
        for case in room["events"]:
            count += 1
            try:
                pdu = receipt.check_on_receipt(case["pdu"], rules, SEEDED_KEYS)
            except receipt.PduDropped as error:
                failures.append(f"{path.name} {case['event_id']}: {error.reason}")
                continue
            if pdu.event_id != case["event_id"] or pdu.redacted_copy:
                failures.append(f"{path.name} {case['event_id']}: {pdu.event_id} {pdu.redacted_copy=}")
    return count, failures


def without_unsigned(pdu: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in pdu.items() if key != "unsigned"}
