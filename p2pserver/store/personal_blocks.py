"""Whom a user of this node does not want to hear of: ignored users, and invites altogether.

Both are account data. Source: client-server API, "Ignoring Users", "Invite permission".
"""

from __future__ import annotations

from p2pserver.store.account_data import get_account_data
from p2pserver.store.tx import Tx


def ignored_users(tx: Tx, user_id: str) -> frozenset[str]:
    """The users named in `m.ignored_user_list`, but not the user himself."""
    content = get_account_data(tx, user_id, None, "m.ignored_user_list") or {}
    users = content.get("ignored_users")
    return frozenset(users) - {user_id} if isinstance(users, dict) else frozenset()


def blocks_invites(tx: Tx, user_id: str) -> bool:
    """Whether `m.invite_permission_config` says that nobody may invite the user."""
    content = get_account_data(tx, user_id, None, "m.invite_permission_config") or {}
    return content.get("default_action") == "block"
