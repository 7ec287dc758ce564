"""The node's signing key, signed by itself. Source: server-server API, "Retrieving server keys".

Nothing here needs it: a node's name is its key. Operators' tools learn the name of the server from it.
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.events.signing import sign_json
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.http_api.routing import ApiRequest, Routes

routes = Routes()

VALID_MS = 7 * 24 * 3600 * 1000


@routes.route("GET", "/server", versions=("v2",), base="/_matrix/key", auth="none")
async def server_key(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /_matrix/key/v2/server`."""
    signer = api.rooms.context.signer
    key = {
        "server_name": api.server_name,
        "valid_until_ts": api.wall_ms() + VALID_MS,
        "verify_keys": {signer.key_id: {"key": encode_base64(signer.verify_key)}},
        "old_verify_keys": {},
    }
    return sign_json(key, signer)
