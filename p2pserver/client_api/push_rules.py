"""Push rules: stored and served. Clients judge by them; the node itself pushes to nobody.

The whole rule set is the account data type `m.push_rules`, so that clients learn of a change by `/sync`.
Source: client-server API, "Push Rules".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.user_data import CONTENT_OCTETS_MAX
from p2pserver.errors import BadJson, InvalidParam, MissingParam, NotFound, TooLarge
from p2pserver.http_api.routing import ApiRequest, ApiResponse, Routes
from p2pserver.store.account_data import get_account_data, put_account_data
from p2pserver.store.push_rules import KINDS, default_push_rules
from p2pserver.store.tx import Tx

routes = Routes()

RuleSet = dict[str, list[dict[str, Any]]]
RULE_ID_CHARACTERS_MAX = 255
CONDITIONS_MAX = 100
ACTIONS_MAX = 20


@routes.route("GET", "/pushrules/")
async def get_all(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushrules/`."""
    return {"global": await _rules(api, request)}


@routes.route("GET", "/pushrules/global/")
async def get_global(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushrules/global/`."""
    return dict(await _rules(api, request))


@routes.route("GET", "/pushrules/global/{kind}/")
async def get_kind(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """`GET /pushrules/global/{kind}/`: not in the specification any more; older clients ask it."""
    kind = _kind_of(request)
    return ApiResponse(body=(await _rules(api, request))[kind])


@routes.route("GET", "/pushrules/global/{kind}/{rule_id}")
async def get_rule(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushrules/global/{kind}/{ruleId}`."""
    return await _rule(api, request)


@routes.route("GET", "/pushrules/global/{kind}/{rule_id}/enabled")
async def get_enabled(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushrules/global/{kind}/{ruleId}/enabled`."""
    return {"enabled": (await _rule(api, request))["enabled"]}


@routes.route("GET", "/pushrules/global/{kind}/{rule_id}/actions")
async def get_actions(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushrules/global/{kind}/{ruleId}/actions`."""
    return {"actions": (await _rule(api, request))["actions"]}


@routes.route("PUT", "/pushrules/global/{kind}/{rule_id}/enabled")
async def put_enabled(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /pushrules/global/{kind}/{ruleId}/enabled`."""
    kind, rule_id = _kind_of(request), request.params["rule_id"]
    enabled = request.body.get("enabled")
    if not isinstance(enabled, bool):
        raise BadJson("`enabled` is not a boolean")

    def change(rules: RuleSet) -> None:
        _find(rules, kind, rule_id)["enabled"] = enabled

    return await _change(api, request, change)


@routes.route("PUT", "/pushrules/global/{kind}/{rule_id}/actions")
async def put_actions(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /pushrules/global/{kind}/{ruleId}/actions`."""
    kind, rule_id = _kind_of(request), request.params["rule_id"]
    actions = _actions_of(request)

    def change(rules: RuleSet) -> None:
        _find(rules, kind, rule_id)["actions"] = actions

    return await _change(api, request, change)


@routes.route("PUT", "/pushrules/global/{kind}/{rule_id}")
async def put_rule(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /pushrules/global/{kind}/{ruleId}`: a new rule comes first of the user's own, or by `before` or `after`."""
    kind, rule_id = _kind_of(request), request.params["rule_id"]
    if rule_id.startswith(".") or "/" in rule_id or "\\" in rule_id or len(rule_id) > RULE_ID_CHARACTERS_MAX:
        raise InvalidParam("rule IDs with a leading dot, a slash or a backslash are not for users")
    rule: dict[str, Any] = {"rule_id": rule_id, "default": False, "enabled": True, "actions": _actions_of(request)}
    if kind in ("override", "underride"):
        rule["conditions"] = _conditions_of(request)
    elif kind == "content":
        pattern = request.body.get("pattern")
        if not isinstance(pattern, str):
            raise MissingParam("a content rule has a `pattern`")
        rule["pattern"] = pattern

    def change(rules: RuleSet) -> None:
        of_kind = rules[kind]
        before, after = request.query.get("before"), request.query.get("after")
        previous = next((held for held in of_kind if held["rule_id"] == rule_id), None)
        place = 0 if previous is None else of_kind.index(previous)
        if previous is not None:
            of_kind.remove(previous)
        if before is not None or after is not None:
            place = _own_place(of_kind, before if before is not None else after or "") + (before is None)
        # Of the server's own rules only the one that silences everything goes before the user's.
        of_kind.insert(max(place, sum(held["rule_id"] == ".m.rule.master" for held in of_kind)), rule)

    return await _change(api, request, change)


@routes.route("DELETE", "/pushrules/global/{kind}/{rule_id}")
async def delete_rule(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /pushrules/global/{kind}/{ruleId}`."""
    kind, rule_id = _kind_of(request), request.params["rule_id"]

    def change(rules: RuleSet) -> None:
        rule = _find(rules, kind, rule_id)
        if rule["default"]:
            raise InvalidParam("a predefined rule can be disabled but not deleted")
        rules[kind].remove(rule)

    return await _change(api, request, change)


def _read(tx: Tx, user_id: str) -> RuleSet:
    stored = get_account_data(tx, user_id, None, "m.push_rules") or default_push_rules(user_id)
    rules: RuleSet = stored["global"]
    return rules


async def _rules(api: ClientApi, request: ApiRequest) -> RuleSet:
    user_id = request.requester.user_id
    return await api.database.read(lambda tx: _read(tx, user_id))


async def _rule(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return _find(await _rules(api, request), _kind_of(request), request.params["rule_id"])


async def _change(api: ClientApi, request: ApiRequest, change: Callable[[RuleSet], None]) -> dict[str, Any]:
    user_id = request.requester.user_id

    def unit(tx: Tx) -> None:
        rules = _read(tx, user_id)
        change(rules)
        content = {"global": rules}
        if len(json.dumps(content)) > CONTENT_OCTETS_MAX:
            raise TooLarge("too many push rules")
        put_account_data(tx, user_id, None, "m.push_rules", content)

    await api.database.write(unit)
    return {}


def _kind_of(request: ApiRequest) -> str:
    kind = request.params["kind"]
    if kind not in KINDS:
        raise InvalidParam(f"{kind!r} is not a kind of push rule")
    return kind


def _find(rules: RuleSet, kind: str, rule_id: str) -> dict[str, Any]:
    for rule in rules[kind]:
        if rule["rule_id"] == rule_id:
            return rule
    raise NotFound("there is no such push rule")


def _own_place(of_kind: list[dict[str, Any]], rule_id: str) -> int:
    for place, rule in enumerate(of_kind):
        if rule["rule_id"] == rule_id and not rule["default"]:
            return place
    raise InvalidParam("`before` and `after` name another rule of the user, of the same kind")


def _actions_of(request: ApiRequest) -> list[Any]:
    if "actions" not in request.body:
        raise MissingParam("`actions` is missing")
    actions = request.body["actions"]
    if not isinstance(actions, list) or len(actions) > ACTIONS_MAX:
        raise BadJson("`actions` is not a short list")
    for action in actions:
        is_tweak = isinstance(action, dict) and isinstance(action.get("set_tweak"), str)
        if not is_tweak and not isinstance(action, str):
            raise BadJson("an action is neither a string nor a tweak")
    return actions


def _conditions_of(request: ApiRequest) -> list[Any]:
    conditions = request.body.get("conditions", [])
    if not isinstance(conditions, list) or len(conditions) > CONDITIONS_MAX:
        raise BadJson("`conditions` is not a short list")
    if not all(isinstance(condition, dict) and isinstance(condition.get("kind"), str) for condition in conditions):
        raise BadJson("a condition is not an object with a `kind`")
    return conditions
