"""Requests of the node to its application services.

A service is asked at `/_matrix/app/v1` with its `hs_token` as Bearer. One that refuses that is asked as it was done
before, with the token in the address and, if it does not know the path, without the prefix; what worked for a
transaction is kept to. Source: application service API, "Legacy routes", "Homeserver -> Application Service API".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from p2pserver.rooms.app_services import AppService

BASE: Final = "/_matrix/app/v1"
TRANSACTION_S, QUESTION_S, PING_S = 60.0, 10.0, 20.0
ANSWER_OCTETS_MAX: Final = 1 << 20

_BEARER, _IN_ADDRESS, _WITHOUT_PREFIX = range(3)


class CallFailed(Exception):
    """A service gave no good answer: `status` is that of HTTP, None if there was none; `timed_out`: none in time."""

    def __init__(self, reason: str, *, status: int | None = None, body: str = "", timed_out: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.body = body
        self.timed_out = timed_out


class AppServiceCalls:
    """One client for all services."""

    def __init__(self) -> None:
        self._http: Any = None
        self._forms: dict[str, int] = {}

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def transaction(self, service: AppService, txn_id: str, body: bytes) -> None:
        """Raises: CallFailed, unless the service has taken it."""
        form = self._forms.get(service.service_id, _BEARER)
        path = f"/transactions/{quote(txn_id, safe='')}"
        while True:
            try:
                await self._call(service, "PUT", path, form=form, content=body, timeout_s=TRANSACTION_S)
            except CallFailed as failed:
                if failed.status in (401, 403) and form == _BEARER:
                    form = _IN_ADDRESS
                elif failed.status in (404, 405) and form != _WITHOUT_PREFIX:
                    form = _WITHOUT_PREFIX
                else:
                    raise
            else:
                self._forms[service.service_id] = form
                return

    async def knows_user(self, service: AppService, user_id: str) -> bool:
        """Asks whether there is such a user; a service that says so has registered him. Raises: CallFailed."""
        return await self._knows(service, f"/users/{quote(user_id, safe='')}")

    async def knows_alias(self, service: AppService, alias: str) -> bool:
        """Asks whether there is such a room; a service that says so has made room and alias. Raises: CallFailed."""
        return await self._knows(service, f"/rooms/{quote(alias, safe='')}")

    async def _knows(self, service: AppService, path: str) -> bool:
        form = self._forms.get(service.service_id, _BEARER)
        try:
            await self._call(service, "GET", path, form=form, timeout_s=QUESTION_S)
        except CallFailed as failed:
            if failed.status == 404:
                return False
            raise
        return True

    async def third_party(self, service: AppService, path: str, fields: Mapping[str, str]) -> Any:
        """What a service says of its network: the JSON below `/thirdparty`. Raises: CallFailed."""
        form = min(self._forms.get(service.service_id, _BEARER), _IN_ADDRESS)
        return await self._call(service, "GET", "/thirdparty" + path, form=form, fields=fields, timeout_s=QUESTION_S)

    async def ping(self, service: AppService, transaction_id: str | None) -> None:
        """Raises: CallFailed."""
        body = {} if transaction_id is None else {"transaction_id": transaction_id}
        content = json.dumps(body).encode()
        await self._call(service, "POST", "/ping", form=_BEARER, content=content, timeout_s=PING_S)

    async def _call(
        self,
        service: AppService,
        method: str,
        path: str,
        *,
        form: int,
        timeout_s: float,
        content: bytes | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of the answer, None where it is none. Raises: CallFailed, unless it is 200."""
        import httpx  # a node without services does without it

        if service.url is None:
            raise CallFailed("the service has no address")
        if self._http is None:
            self._http = httpx.AsyncClient(follow_redirects=False, trust_env=False)
        url = service.url + ("" if form == _WITHOUT_PREFIX else BASE) + path
        query, headers = dict(fields or {}), {"Content-Type": "application/json"}
        if form == _BEARER:
            headers["Authorization"] = f"Bearer {service.hs_token}"
        else:
            query["access_token"] = service.hs_token
        try:
            async with self._http.stream(
                method, url, params=query, headers=headers, content=content, timeout=timeout_s
            ) as answer:
                octets = b""
                async for part in answer.aiter_bytes():
                    octets += part
                    if len(octets) > ANSWER_OCTETS_MAX:
                        raise CallFailed("the answer is over 1 MiB")
                status = answer.status_code
        except httpx.TimeoutException:
            raise CallFailed("no answer in time", timed_out=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise CallFailed(str(error) or type(error).__name__) from None
        if status != 200:
            raise CallFailed(f"answered {status}", status=status, body=octets[:65_536].decode("utf-8", "replace"))
        try:
            return json.loads(octets)
        except (ValueError, RecursionError):
            return None
