"""Every module that has routes, in one list."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from p2pserver.client_api import (
    account,
    app_services,
    content,
    cross_signing,
    dehydrated_devices,
    delayed_events,
    directory,
    ephemeral,
    event_by_time,
    key_backup,
    keys,
    knocking,
    login,
    messages,
    moderation,
    notifications,
    old_sync,
    openid,
    presence,
    profiles,
    push_rules,
    pushers,
    registration,
    relations,
    reports,
    room_summaries,
    room_upgrade,
    rooms_create,
    rooms_membership,
    rooms_read,
    rooms_send,
    search,
    send_to_device,
    server_keys,
    space_hierarchy,
    sync,
    third_party_ids,
    third_party_networks,
    user_data,
    user_directory,
    versions,
)
from p2pserver.client_api.sliding_sync import endpoint as sliding_sync
from p2pserver.http_api.routing import Route

MODULES: tuple[ModuleType, ...] = (
    versions,
    login,
    registration,
    account,
    openid,
    moderation,
    profiles,
    user_data,
    user_directory,
    push_rules,
    pushers,
    keys,
    key_backup,
    cross_signing,
    dehydrated_devices,
    send_to_device,
    server_keys,
    ephemeral,
    rooms_create,
    room_upgrade,
    rooms_membership,
    knocking,
    rooms_send,
    rooms_read,
    relations,
    messages,
    notifications,
    presence,
    directory,
    content,
    room_summaries,
    space_hierarchy,
    reports,
    event_by_time,
    third_party_ids,
    third_party_networks,
    app_services,
    old_sync,
    search,
    delayed_events,
    sync,
    sliding_sync,
)


def all_routes() -> Iterator[Route]:
    """The operations of the whole Client-Server API."""
    for module in MODULES:
        yield from module.routes.all
