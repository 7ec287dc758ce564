"""What clients ask for when they start, request by request, and what each takes for granted in the answers.

Looked up in the source of matrix-js-sdk (Element Web), matrix-rust-sdk and ruma (Element X), matrix-dart-sdk
(FluffyChat) and mtxclient (Nheko), summer of 2026. matrix-nio and matrix-js-sdk also run for real in other tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CLIENT = "/_matrix/client"
V3 = f"{CLIENT}/v3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request; a string `{name}` in body, query or path stands for what is known by that name."""

    method: str
    path: str
    """As the specification writes it, so that its schema is found."""
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    reads: tuple[str, ...] = ()
    """Members that the client takes for granted: names with `/` between them, `*` for each of an object or list.

    What is behind a name with `?` matters only where the name is there.
    """
    keeps: Mapping[str, str] = field(default_factory=dict)
    """What is remembered under a name: a member of the answer."""
    new_account: str | None = None
    """The errcode of the 404 that somebody who has done nothing yet gets; an older account has what is asked for."""
    never: str | None = None
    """The errcode of the 404 that everybody gets, with which the client lives."""


def get(path: str, *reads: str, **fields: Any) -> Call:
    return Call(method="GET", path=path, reads=reads, **fields)


def post(path: str, body: Any, *reads: str, **fields: Any) -> Call:
    return Call(method="POST", path=path, body=body, reads=reads, **fields)


def put(path: str, body: Any, **fields: Any) -> Call:
    return Call(method="PUT", path=path, body=body, **fields)


def logging_in(device_name: str, *, oauth: bool = True) -> tuple[Call, ...]:
    """From the name of the server to a token."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "{localpart}"},
        "password": "{password}",
        "initial_device_display_name": device_name,
    }
    asks_for_oauth = (
        get(f"{CLIENT}/v1/auth_metadata", never="M_UNRECOGNIZED"),
        get(f"{CLIENT}/unstable/org.matrix.msc2965/auth_metadata", never="M_UNRECOGNIZED"),
    )
    return (
        get("/.well-known/matrix/client", "m.homeserver/base_url"),
        get(f"{CLIENT}/versions", "versions", "unstable_features"),
        *(asks_for_oauth if oauth else ()),
        get(f"{V3}/login", "flows/*/type"),
        post(
            f"{V3}/login",
            body,
            *("user_id", "access_token", "device_id", "well_known/m.homeserver/base_url"),
            keeps={"user_id": "userId", "access_token": "token", "device_id": "device_id"},
        ),
    )


def account_data(kind: str, *, new_account: str | None = "M_NOT_FOUND") -> Call:
    path = V3 + "/user/{userId}/account_data/{type}"
    return get(path, params={"type": kind}, new_account=new_account)


UPLOADS = post(
    f"{V3}/keys/upload",
    {"device_keys": "{device_keys}", "one_time_keys": "{one_time_keys}", "fallback_keys": "{fallback_keys}"},
    "one_time_key_counts/signed_curve25519",
)
QUERY = post(
    f"{V3}/keys/query",
    {"device_keys": {"{userId}": []}, "timeout": 10_000},
    *("device_keys/{userId}/{device_id}/keys", "failures"),
)
BACKUP = get(f"{V3}/room_keys/version", "version", "algorithm", "auth_data", "etag", "count", new_account="M_NOT_FOUND")
KINDS = ("override", "content", "room", "sender", "underride")
EVENT = ("event_id", "type", "sender", "origin_server_ts", "content")


def sync_reads(*state: str) -> tuple[str, ...]:
    room = "rooms/join/*"
    return (
        "next_batch",
        *(f"{room}/timeline/events/*/{name}" for name in EVENT),
        *(f"{room}/timeline/{name}" for name in ("limited", "prev_batch")),
        *(f"{room}/{each}/events/*/type" for each in state),
        *(f"{room}/{each}/events" for each in ("ephemeral", "account_data")),
        *(f"{room}/unread_notifications/{name}_count" for name in ("notification", "highlight")),
        *(f"rooms/invite/*/invite_state/events/*/{name}" for name in ("type", "state_key", "sender", "content")),
        *("account_data/events/*/type", "device_one_time_keys_count/signed_curve25519"),
        "device_unused_fallback_key_types",
    )


def first_sync(*state: str, **query: str) -> Call:
    return get(f"{V3}/sync", *sync_reads(*state), query={"timeout": "0", **query}, keeps={"next_batch": "since"})


ELEMENT_WEB = (
    *logging_in("app.element.io: Chrome on Linux"),
    get(f"{CLIENT}/versions", "versions"),
    get(f"{V3}/account/whoami", "user_id"),
    get(f"{V3}/pushrules/", *(f"global/{kind}" for kind in KINDS)),
    post(
        V3 + "/user/{userId}/filter",
        {"room": {"timeline": {"unread_thread_notifications": True}, "state": {"lazy_load_members": True}}},
        "filter_id",
        keeps={"filter_id": "filter_id"},
    ),
    first_sync(
        "org.matrix.msc4222.state_after",
        **{"filter": "{filter_id}", "org.matrix.msc4222.use_state_after": "true", "_cacheBuster": "1"},
    ),
    get(f"{V3}/capabilities", "capabilities/m.room_versions/default", "capabilities/m.room_versions/available"),
    get(f"{V3}/voip/turnServer"),
    BACKUP,
    UPLOADS,
    QUERY,
    get(f"{CLIENT}/unstable/org.matrix.msc3814.v1/dehydrated_device", new_account="M_NOT_FOUND"),
    get(f"{V3}/devices", "devices/*/device_id"),
    account_data("m.direct"),
    account_data("m.secret_storage.default_key"),
    account_data("m.cross_signing.master"),
    get(f"{V3}/thirdparty/protocols"),
    get(f"{V3}/pushers", "pushers"),
    get(V3 + "/profile/{userId}", "displayname"),
    get(f"{CLIENT}/v1/media/config"),
    get(f"{CLIENT}/unstable/org.matrix.msc4143/rtc/transports", never="M_UNRECOGNIZED"),
    first_sync("org.matrix.msc4222.state_after", **{"since": "{since}", "org.matrix.msc4222.use_state_after": "true"}),
)

SLIDING = f"{CLIENT}/unstable/org.matrix.simplified_msc3575/sync"
LIST_STATE = [
    *(["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]),
    *(["m.room.topic", ""], ["m.room.avatar", ""], ["m.room.canonical_alias", ""], ["m.room.power_levels", ""]),
    *(["org.matrix.msc3401.call.member", "*"], ["m.room.join_rules", ""], ["m.room.tombstone", ""]),
    *(["m.room.create", ""], ["m.room.history_visibility", ""], ["io.element.functional_members", ""]),
    *(["m.space.parent", "*"], ["m.space.child", "*"], ["org.matrix.msc3672.beacon_info", "*"]),
]
ROOM_LIST_EXTENSIONS = {
    "account_data": {"enabled": True},
    "receipts": {"enabled": True, "rooms": ["*"]},
    "typing": {"enabled": True},
}


def room_list(*, last: int, query: Mapping[str, str], **more: Any) -> Call:
    """The first connection of matrix-rust-sdk: all rooms, in a window that grows."""
    every = {"ranges": [[0, last]], "timeline_limit": 1, "required_state": LIST_STATE, "filters": {}}
    body = {"conn_id": "room-list", "lists": {"all_rooms": every}, "extensions": ROOM_LIST_EXTENSIONS, **more}
    reads = ("pos", "lists/all_rooms/count", *(f"rooms/*/timeline?/*/{name}" for name in EVENT))
    return post(SLIDING, body, *reads, query=query, keeps={"pos": "pos"})


def encryption(*, query: Mapping[str, str], **to_device: Any) -> Call:
    """The second connection: no rooms, what encryption needs."""
    extensions = {"to_device": {"enabled": True, **to_device}, "e2ee": {"enabled": True}}
    reads = (
        *("pos", "extensions/to_device/next_batch", "extensions/e2ee/device_one_time_keys_count"),
        "extensions/e2ee/device_unused_fallback_key_types",
    )
    keeps = {"pos": "encryption_pos", "extensions/to_device/next_batch": "to_device"}
    return post(SLIDING, {"conn_id": "encryption", "extensions": extensions}, *reads, query=query, keeps=keeps)


ELEMENT_X = (
    *logging_in("Element X Android"),
    encryption(query={}),
    UPLOADS,
    QUERY,
    BACKUP,
    room_list(last=19, query={}),
    account_data("m.secret_storage.default_key"),
    account_data("m.secret_storage.key.abc"),
    get(f"{V3}/capabilities", "capabilities"),
    get(f"{CLIENT}/v1/media/config"),
    encryption(query={"pos": "{encryption_pos}", "timeout": "0"}, since="{to_device}"),
    room_list(last=99, query={"pos": "{pos}", "timeout": "0"}),
    room_list(
        last=99,
        query={"pos": "{pos}", "timeout": "0"},
        room_subscriptions={
            "{room}": {"timeline_limit": 20, "required_state": [*LIST_STATE, ["m.room.pinned_events", ""]]}
        },
    ),
)

FLUFFYCHAT = (
    *logging_in("FluffyChat linux"),
    get(f"{V3}/pushrules/", "global"),
    post(
        V3 + "/user/{userId}/filter",
        {"room": {"state": {"lazy_load_members": True}}},
        "filter_id",
        keeps={"filter_id": "filter_id"},
    ),
    first_sync("state", filter="{filter_id}", set_presence="online"),
    UPLOADS,
    QUERY,
    BACKUP,
    get(f"{V3}/capabilities", "capabilities"),
    get(f"{CLIENT}/v1/media/config"),
    first_sync("state", filter="{filter_id}", since="{since}"),
)

NHEKO = (
    *logging_in("nheko", oauth=False),
    get(f"{V3}/capabilities", "capabilities"),
    UPLOADS,
    first_sync("state", filter='{"room":{"state":{"lazy_load_members":true}}}', full_state="false"),
    get(f"{V3}/voip/turnServer"),
    BACKUP,
    QUERY,
    get(V3 + "/profile/{userId}", "displayname"),
    first_sync("state", since="{since}"),
)

STARTUPS = {"Element Web": ELEMENT_WEB, "Element X": ELEMENT_X, "FluffyChat": FLUFFYCHAT, "Nheko": NHEKO}
