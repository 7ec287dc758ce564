"""Telling application services what happens: one task each, beside the requests.

    place in the stream ── read ──► next transaction ── commit ──► sent until it is taken ── commit ──► new place

The queue of a service is the stream itself: what is kept for one is its place, and the one transaction that is under
way, as it is sent. So a service that is away for weeks costs nothing, misses no event that the node still holds, and
after a restart gets the same transaction under the same ID before anything newer. A node without services does nothing.
Source: application service API, "Pushing events".
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.app_service_calls import CallFailed
from p2pserver.client_api.app_service_news import Live, next_news
from p2pserver.rooms.app_services import AppService
from p2pserver.rooms.live import LIVE_TOPIC
from p2pserver.store import app_services
from p2pserver.store.app_services import Transaction

log = logging.getLogger(__name__)

WAIT_FIRST_S, WAIT_MAX_S = 1.0, 300.0
"""After a failure, and at most: each wait is twice the one before. A ping that works ends it."""
LOOK_S: Final = 3_600.0
NOTE_EVERY: Final = 1_000
"""Positions without anything to tell after which the place of a service is written down."""
LIVE_CHANGES_MAX: Final = 500


def back_topic(service: AppService) -> str:
    """Who waits for it is woken when the service shows that it is there again."""
    return f"app-service:{service.service_id}"


def tell_app_services(api: ClientApi) -> None:
    """Starts the tasks of all services that listen somewhere."""
    for service in api.app_services.all:
        if service.url is not None:
            api.spawn(_Delivery(api, service).run(), name=f"app-service {service.service_id}")


class _Delivery:
    """Brings one service what it is to be told, strictly in order."""

    def __init__(self, api: ClientApi, service: AppService) -> None:
        self._api = api
        self._service = service
        self._live_serial = api.live.serial
        self._topics = ["pdus", "invites"]
        if service.wants_ephemeral:
            self._topics += ["receipts", LIVE_TOPIC]
        if service.wants_encryption:
            self._topics += ["to_device", "device_lists"]

    async def run(self) -> None:
        """Delivers for ever. A mistake of ours in one look must not be the end of it."""
        while True:
            try:
                await self._tell()
            except Exception:
                log.exception("telling an application service failed", extra={"service": self._service.service_id})
                await asyncio.sleep(WAIT_MAX_S)

    async def _tell(self) -> None:
        database, service_id = self._api.database, self._service.service_id
        await database.write(lambda tx: app_services.begin_service(tx, service_id))
        progress = await database.read(lambda tx: app_services.progress_of(tx, service_id))
        assert progress is not None, "it has just begun"
        noted = position = progress.position
        if progress.under_way is not None:
            noted = position = await self._deliver(progress.under_way, [])
        while True:
            serial, live = self._api.live.serial, self._live()
            news = await database.read(
                lambda tx, above=position, live=live: next_news(  # type: ignore[misc]
                    tx, self._api.rooms, self._service, above=above, live=live, wall_ms=self._api.wall_ms()
                )
            )
            self._live_serial = serial
            position = news.reached
            if news.body is not None:
                txn_id = f"{news.reached}.{self._api.random_bytes(6).hex()}"
                body = json.dumps(news.body, separators=(",", ":")).encode()
                transaction = Transaction(txn_id, news.reached, body)
                await database.write(lambda tx, new=transaction: app_services.put_transaction(tx, service_id, new))  # type: ignore[misc]
                noted = await self._deliver(transaction, news.strangers)
            elif position - noted > NOTE_EVERY:
                await database.write(lambda tx, upto=position: app_services.note_reached(tx, service_id, upto))  # type: ignore[misc]
                noted = position
            if position >= news.upto and self._api.live.serial == serial:
                await database.wait(self._topics, after=news.upto, timeout_s=LOOK_S)

    def _live(self) -> Live:
        """What changed among what is true for seconds since it was last looked at."""
        if not self._service.wants_ephemeral:
            return Live()
        api = self._api
        changed = api.live.since(self._live_serial)[:LIVE_CHANGES_MAX]
        return Live(
            typing={key: api.typing.users(key) for key in changed if key.startswith("!")},
            presence={key: api.presence.of_user(key).content(api.wall_ms()) for key in changed if key.startswith("@")},
        )

    async def _deliver(self, transaction: Transaction, strangers: list[str]) -> int:
        """Sends a transaction until the service has taken it, and notes that; the new place."""
        database, service = self._api.database, self._service
        wait_s = 0.0
        while True:
            position = database.position
            try:
                await self._ask_for(strangers)
                await self._api.app_service_calls.transaction(service, transaction.txn_id, transaction.body)
            except CallFailed as failed:
                told = log.info if wait_s else log.warning
                wait_s = min(2 * wait_s, WAIT_MAX_S) or WAIT_FIRST_S
                told(
                    "application service does not take its events; it is tried again",
                    extra={"service": service.service_id, "reason": str(failed), "wait_s": wait_s},
                )
                await database.wait([back_topic(service)], after=position, timeout_s=wait_s)
            else:
                break
        devices = {
            (message["to_user_id"], message["to_device_id"])
            for message in json.loads(transaction.body).get("de.sorunome.msc2409.to_device", ())
        }
        await database.write(
            lambda tx: app_services.note_reached(tx, service.service_id, transaction.reached, sorted(devices))
        )
        return transaction.reached

    async def _ask_for(self, strangers: list[str]) -> None:
        """Lets the service register users who are invited and do not exist yet. Raises: CallFailed."""
        while strangers:
            try:
                await self._api.app_service_calls.knows_user(self._service, strangers[0])
            except CallFailed as failed:
                if failed.status is None:
                    raise
            del strangers[0]
