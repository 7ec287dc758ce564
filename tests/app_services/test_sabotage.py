"""The story of a service that misses nothing goes red when the node gives its word too early, swaps, or forgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from p2pserver.client_api import app_service_delivery
from p2pserver.client_api.app_service_news import News, next_news
from p2pserver.store import app_services
from p2pserver.store.app_services import Transaction
from tests.app_services.service import ghost, running_service, until_noted
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import invite_and_join, new_room, say


async def story() -> None:
    """A service refuses, the node loses power, the service is back. Raises: AssertionError, unless it gets all."""
    async with running_service() as service:
        async with running_node(app_services=[service.registration()]) as node:
            node.api.start()
            alice, nick = await node.register("alice"), await ghost(node, "irc_nick")
            room_id = await new_room(alice)
            await invite_and_join(alice, room_id, nick)
            await service.until(lambda: any(event["sender"] == nick.user_id for event in service.events))
            await until_noted(node)
            service.answer = lambda asked: (500, {})
            await say(alice, room_id, "one")
            await service.until(lambda: "one" in service.texts)
            await say(alice, room_id, "two")
            disk, token = node.disk, alice.token
        refused = service.transactions[-1]
        service.asked.clear()
        service.answer = lambda asked: (200, {})
        async with running_node(disk=disk, app_services=[service.registration()]) as node:
            await say(Client(node.http, token), room_id, "three")
            node.api.start()
            await service.until(lambda: "three" in service.texts)
        assert service.texts == ["one", "two", "three"]
        assert service.transactions[0] == refused


async def test_nothing_is_lost_or_swapped_and_repeats_can_be_told() -> None:
    await story()


async def test_what_is_acknowledged_before_it_is_delivered_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = app_service_delivery._Delivery._deliver

    async def too_early(self: Any, transaction: Transaction, strangers: list[str]) -> int:
        service_id = self._service.service_id
        await self._api.database.write(lambda tx: app_services.note_reached(tx, service_id, transaction.reached))
        return await deliver(self, transaction, strangers)

    monkeypatch.setattr(app_service_delivery._Delivery, "_deliver", too_early)
    with pytest.raises(AssertionError):
        await story()


async def test_what_is_swapped_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*args: Any, **kwargs: Any) -> News:
        news = next_news(*args, **kwargs)
        return replace(news, body=news.body and {**news.body, "events": news.body["events"][::-1]})

    monkeypatch.setattr(app_service_delivery, "next_news", swapped)
    with pytest.raises(AssertionError):
        await story()


async def test_a_transaction_that_is_not_kept_is_told_by_its_new_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_services, "put_transaction", lambda *args: None)
    with pytest.raises(AssertionError):
        await story()
