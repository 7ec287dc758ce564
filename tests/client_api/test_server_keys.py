"""The node's key as other servers and operators' tools ask for it."""

from nacl.signing import VerifyKey

from p2pserver.events.canonical import encode_canonical
from p2pserver.events.unpadded_base64 import decode_base64
from tests.client_api.harness import running_node


async def test_the_key_is_signed_by_itself_and_is_the_name() -> None:
    async with running_node() as node:
        answer = await node.stranger().get("/_matrix/key/v2/server")
        assert answer.status == 200
        key = dict(answer.body)
        [signature] = key.pop("signatures")[node.server_name].values()
        verify_key = decode_base64(key["verify_keys"]["ed25519:1"]["key"])
        VerifyKey(verify_key).verify(encode_canonical(key), decode_base64(signature))
        assert key["server_name"] == node.server_name
        assert key["valid_until_ts"] > 0
