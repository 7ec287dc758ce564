"""Whole profiles: display name and avatar, which every member event repeats, and any other field.

Source: client-server API, "Profiles"; MSC4133.
"""

from __future__ import annotations

import json
import re
from typing import Any

from p2pserver.errors import KeyTooLarge, ProfileTooLarge
from p2pserver.store.accounts import profile_of
from p2pserver.store.tx import Tx

PROFILE_OCTETS_MAX = 65_536
NAME_OCTETS_MAX = 255
CACHED_MAX = 5_000
_NAME = re.compile(r"displayname|avatar_url|m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


def is_field_name(name: str) -> bool:
    """Whether a profile may have such a field. Source: appendices, "Common Namespaced Identifier Grammar".

    Raises: KeyTooLarge, for a name of more than 255 octets.
    """
    if len(name.encode("utf-8")) > NAME_OCTETS_MAX:
        raise KeyTooLarge(f"the name of a profile field has at most {NAME_OCTETS_MAX} octets")
    return _NAME.fullmatch(name) is not None


def whole_profile(tx: Tx, user_id: str) -> dict[str, Any] | None:
    """All fields of a local user; None, if there is none."""
    profile = profile_of(tx, user_id)
    if profile is None:
        return None
    rows = tx.all("SELECT name, value FROM profile_fields WHERE user_id = ? ORDER BY name", (user_id,))
    return {**profile.to_json(), **{name: json.loads(value) for name, value in rows}}


def put_field(tx: Tx, user_id: str, name: str, value: Any) -> None:
    """Sets a field other than display name and avatar. Raises: ProfileTooLarge."""
    check_size({**(whole_profile(tx, user_id) or {}), name: value})
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    tx.execute("INSERT OR REPLACE INTO profile_fields (user_id, name, value) VALUES (?, ?, ?)", (user_id, name, text))


def delete_field(tx: Tx, user_id: str, name: str) -> None:
    tx.execute("DELETE FROM profile_fields WHERE user_id = ? AND name = ?", (user_id, name))


def check_size(profile: dict[str, Any]) -> None:
    """Raises: ProfileTooLarge."""
    if len(json.dumps(profile, ensure_ascii=False, separators=(",", ":")).encode("utf-8")) > PROFILE_OCTETS_MAX:
        raise ProfileTooLarge(f"a profile has at most {PROFILE_OCTETS_MAX} octets")


def cache_profile(tx: Tx, user_id: str, profile: dict[str, Any]) -> None:
    """Keeps what another node answered; at most `CACHED_MAX` of such answers."""
    text = json.dumps(profile, ensure_ascii=False, separators=(",", ":"))
    tx.execute(
        "INSERT OR REPLACE INTO profile_cache (user_id, profile, fetched)"
        " VALUES (?, ?, (SELECT ifnull(max(fetched), 0) + 1 FROM profile_cache))",
        (user_id, text),
    )
    tx.execute("DELETE FROM profile_cache WHERE fetched <= (SELECT max(fetched) FROM profile_cache) - ?", (CACHED_MAX,))


def cached_profile(tx: Tx, user_id: str) -> dict[str, Any] | None:
    row = tx.one("SELECT profile FROM profile_cache WHERE user_id = ?", (user_id,))
    if row is None:
        return None
    profile: dict[str, Any] = json.loads(row[0])
    return profile
