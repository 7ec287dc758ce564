"""User-interactive authentication: a request is answered 401 until it carries a stage that is passed.

    401 {"flows": [{"stages": ["m.login.password"]}], "params": {}, "session": "…"}      first, without errcode
    … the same request with "auth": {"type": "m.login.password", "session": "…", …}      then

Every flow here has one stage, so a client that knows may send `auth` at once and without a session. A session is bound
to the method, path and body it was opened for. Source: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from p2pserver.errors import BadJson, Forbidden, MatrixError
from p2pserver.http_api.routing import ApiRequest

SESSIONS_MAX = 1024
SESSION_SECONDS = 3600.0

StageCheck = Callable[[dict[str, Any]], Awaitable[None]]
"""Is given the `auth` object; raises a MatrixError if the stage is not passed."""


class InteractiveAuthRequired(MatrixError):
    """401 with the flows; with `errcode` only where a stage was tried and failed."""

    http_status = 401

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("user-interactive authentication is required")
        self._body = body

    def body(self) -> dict[str, Any]:
        return self._body


class InteractiveAuth:
    """Open sessions, of bounded number and age. They are forgotten at a restart: the client is given a new one."""

    def __init__(self, monotonic_s: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._monotonic_s = monotonic_s
        self._random_bytes = random_bytes
        self._sessions: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def require(self, request: ApiRequest, stage: str, check: StageCheck, *, bind_body: bool = True) -> None:
        """Returns if the request carries `stage` and passes `check`.

        Without `bind_body` the rest of the body may change within the session: clients learn the flows of a
        registration before they know the user name.

        Raises: InteractiveAuthRequired; BadJson, if `auth` has the wrong shape; LimitExceeded by way of `check`.
        """
        digest = _digest(request, bind_body=bind_body)
        auth = request.body.get("auth")
        if auth is None:
            raise InteractiveAuthRequired(self._flows(digest, stage))
        if not isinstance(auth, dict):
            raise BadJson("`auth` is not an object")
        session = auth.get("session")
        if session is not None and not isinstance(session, str):
            raise BadJson("`auth.session` is not a string")
        if session is not None and not self._is_open(session, digest):
            raise InteractiveAuthRequired(self._flows(digest, stage))
        if auth.get("type") != stage:
            if auth.get("type") is None:
                raise InteractiveAuthRequired(self._flows(digest, stage, session))
            self._fail(digest, stage, session, Forbidden("this stage of authentication is not offered"))
        try:
            await check(auth)
        except Forbidden as error:
            self._fail(digest, stage, session, error)
        if session is not None:
            self._sessions.pop(session, None)

    def _fail(self, digest: bytes, stage: str, session: str | None, error: MatrixError) -> None:
        raise InteractiveAuthRequired(error.body() | self._flows(digest, stage, session)) from error

    def _flows(self, digest: bytes, stage: str, session: str | None = None) -> dict[str, Any]:
        if session is None:
            session = base64.urlsafe_b64encode(self._random_bytes(18)).decode()
            self._sessions[session] = (digest, self._monotonic_s())
            while len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        return {"flows": [{"stages": [stage]}], "params": {}, "session": session, "completed": []}

    def _is_open(self, session: str, digest: bytes) -> bool:
        bound_to, opened_s = self._sessions.get(session, (b"", 0.0))
        return bound_to == digest and self._monotonic_s() - opened_s < SESSION_SECONDS


def _digest(request: ApiRequest, *, bind_body: bool) -> bytes:
    body = {name: value for name, value in request.body.items() if name != "auth"} if bind_body else None
    who = request.authenticated.user_id if request.authenticated is not None else ""
    text = json.dumps([request.method, request.path, who, body], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
