"""Identity keys of local devices, cross-signing keys of local users, and the signatures on both.

Source: client-server API, "Device keys", "Cross-signing".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p2pserver.store.device_list_cache import UserKeys
from p2pserver.store.device_lists import note_cross_signing_change, note_device_change
from p2pserver.store.tx import Tx

USAGES = ("master", "self_signing", "user_signing")


def put_device_keys(tx: Tx, user_id: str, device_id: str, keys: Mapping[str, Any]) -> None:
    """Stores the identity keys of a device; tells who shares a room, unless they are the same as before."""
    held = device_keys_of(tx, user_id, device_id)
    kept = dict(keys)
    if held is not None and unsigned_part(held) == unsigned_part(keys):
        kept["signatures"] = _merged(held.get("signatures", {}), keys.get("signatures", {}))
        if kept == held:
            return
    tx.execute(
        "UPDATE devices SET keys = ? WHERE user_id = ? AND device_id = ?", (json.dumps(kept), user_id, device_id)
    )
    note_device_change(tx, user_id, device_id)


def device_keys_of(tx: Tx, user_id: str, device_id: str) -> dict[str, Any] | None:
    """The identity keys of a local device."""
    row = tx.one("SELECT keys FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row is None or row[0] is None:
        return None
    keys: dict[str, Any] = json.loads(row[0])
    return keys


def cross_signing_keys(tx: Tx, user_id: str) -> dict[str, dict[str, Any]]:
    """A local user's cross-signing keys by usage."""
    rows = tx.all("SELECT usage, content FROM cross_signing_keys WHERE user_id = ?", (user_id,))
    return {usage: json.loads(text) for usage, text in rows}


def put_cross_signing_keys(tx: Tx, user_id: str, keys: Mapping[str, Mapping[str, Any]]) -> None:
    """Stores the given keys by usage; tells who shares a room, if one is new."""
    held = cross_signing_keys(tx, user_id)
    changed = False
    for usage, key in keys.items():
        before = held.get(usage)
        kept = dict(key)
        if before is not None and unsigned_part(before) == unsigned_part(key):
            kept["signatures"] = _merged(before.get("signatures", {}), key.get("signatures", {}))
            if kept == before or (not kept["signatures"] and "signatures" not in before):
                continue
        tx.execute(
            "INSERT OR REPLACE INTO cross_signing_keys (user_id, usage, content) VALUES (?, ?, ?)",
            (user_id, usage, json.dumps(kept)),
        )
        changed = True
    if changed:
        note_cross_signing_change(tx, user_id)


def add_device_signature(tx: Tx, user_id: str, device_id: str, key_id: str, signature: str) -> None:
    """Adds a signature of the user himself to the keys of his device."""
    keys = device_keys_of(tx, user_id, device_id)
    assert keys is not None
    signed = {**keys, "signatures": _merged(keys.get("signatures", {}), {user_id: {key_id: signature}})}
    if signed != keys:
        tx.execute(
            "UPDATE devices SET keys = ? WHERE user_id = ? AND device_id = ?", (json.dumps(signed), user_id, device_id)
        )
        note_device_change(tx, user_id, device_id)


def add_master_signature(tx: Tx, user_id: str, key_id: str, signature: str) -> None:
    """Adds a signature of one of the user's devices to his master key."""
    master = cross_signing_keys(tx, user_id)["master"]
    signed = {**master, "signatures": _merged(master.get("signatures", {}), {user_id: {key_id: signature}})}
    if signed != master:
        tx.execute(
            "UPDATE cross_signing_keys SET content = ? WHERE user_id = ? AND usage = 'master'",
            (json.dumps(signed), user_id),
        )
        note_cross_signing_change(tx, user_id)


def add_user_signature(
    tx: Tx, signer_user_id: str, target_user_id: str, target_key_id: str, key_id: str, signature: str
) -> None:
    """Remembers that a local user's user-signing key signed somebody's master key; only his own devices learn it."""
    tx.execute(
        "INSERT OR REPLACE INTO user_signatures"
        " (signer_user_id, target_user_id, target_key_id, key_id, signature, position) VALUES (?, ?, ?, ?, ?, ?)",
        (signer_user_id, target_user_id, target_key_id, key_id, signature, tx.next_position()),
    )
    tx.notify(f"user:{signer_user_id}")


def with_user_signatures(
    tx: Tx, viewer_user_id: str, target_user_id: str, master_key: Mapping[str, Any]
) -> dict[str, Any]:
    """A master key with the signatures that the viewer himself has put on it."""
    keys = master_key.get("keys")
    shown = dict(master_key)
    for target_key_id in keys if isinstance(keys, dict) else ():
        rows = tx.all(
            "SELECT key_id, signature FROM user_signatures"
            " WHERE signer_user_id = ? AND target_user_id = ? AND target_key_id = ?",
            (viewer_user_id, target_user_id, target_key_id),
        )
        if rows:
            shown["signatures"] = _merged(shown.get("signatures"), {viewer_user_id: dict(rows)})
    return shown


def local_keys(tx: Tx, user_id: str, *, with_names: bool) -> UserKeys:
    """All public keys of a local user; with the names of his devices for people on this node."""
    devices: dict[str, dict[str, Any]] = {}
    rows = tx.all(
        "SELECT device_id, keys, display_name FROM devices WHERE user_id = ? AND keys IS NOT NULL", (user_id,)
    )
    for device_id, text, display_name in rows:
        devices[device_id] = json.loads(text)
        devices[device_id].pop("unsigned", None)
        if with_names:
            devices[device_id]["unsigned"] = {} if display_name is None else {"device_display_name": display_name}
    signing = cross_signing_keys(tx, user_id)
    return UserKeys(device_keys=devices, master_key=signing.get("master"), self_signing_key=signing.get("self_signing"))


def unsigned_part(signed: Mapping[str, Any]) -> dict[str, Any]:
    """What a signature covers."""
    return {name: value for name, value in signed.items() if name not in ("signatures", "unsigned")}


def _merged(old: Any, new: Any) -> dict[str, dict[str, str]]:
    """Two `signatures` objects in one."""
    merged: dict[str, dict[str, str]] = {}
    for signatures in (old, new):
        if isinstance(signatures, dict):
            for signer, by_key in signatures.items():
                if isinstance(by_key, dict):
                    merged[signer] = {**merged.get(signer, {}), **by_key}
    return merged
