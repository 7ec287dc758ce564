"""The bundled schemas are whole, and what breaks them is seen."""

import json
import re

from jsonschema import Draft202012Validator

from tests.client_api import conformance
from tests.client_api.openapi.schemas import BUNDLE, definitions, event_faults, operations, response_faults


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for name, schema in definitions().items():
        Draft202012Validator.check_schema(schema)
        assert schema, name
    refs = set(re.findall(r'"\$ref":"#/\$defs/([^"]+)"', BUNDLE.read_text()))
    assert refs <= set(definitions())


def test_each_endpoint_of_the_index_has_its_operation() -> None:
    known = {re.sub(r"\{[^}]*\}", "{}", name) for name in operations()}
    missing = [
        f"{line.method} {line.path}"
        for line in conformance.lines()
        if re.sub(r"\{[^}]*\}", "{}", f"{line.method} {line.path}") not in known
    ]
    assert sorted(name for name in missing if "/unstable/" not in name) == [
        "POST /_matrix/client/v3/keys/upload/{deviceId}",  # of r0
        "POST /_matrix/client/v4/sync",  # accepted, in no release yet
    ]


def test_what_breaks_a_schema_is_seen() -> None:
    whoami = operations()["GET /_matrix/client/v3/account/whoami"]
    assert response_faults(whoami, 200, {"user_id": "@a:b"}) == []
    assert response_faults(whoami, 200, {"user_id": "a"})
    assert response_faults(whoami, 200, {})
    assert response_faults(whoami, 201, {"user_id": "@a:b"})
    assert response_faults(whoami, 500, {"error": "no code"})
    room = "!" + "A" * 43
    event = {"type": "m.room.name", "state_key": "", "sender": "@a:b", "event_id": "$x", "room_id": room}
    assert event_faults({**event, "origin_server_ts": 1, "content": {"name": "x"}}) == []
    assert event_faults({**event, "origin_server_ts": 1, "content": {"name": 7}})
    assert event_faults({**event, "content": {"name": "x"}})


def test_the_bundle_is_json_without_prose() -> None:
    assert '"description":"' not in json.dumps(json.loads(BUNDLE.read_text()), separators=(",", ":"))
