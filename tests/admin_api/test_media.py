"""Media by the admin API: lists, quarantine, protection, deletion, statistics."""

from typing import Any

from tests.admin_api.harness import AdminNode, running_admin_node
from tests.client_api.harness import Client


async def upload(at: AdminNode, client: Client, octets: bytes, name: str) -> str:
    """The media ID."""
    response = await at.node.http.post(
        "/_matrix/media/v3/upload",
        params={"filename": name},
        content=octets,
        headers={"Authorization": f"Bearer {client.token}", "Content-Type": "text/plain"},
    )
    uri: str = response.json()["content_uri"]
    return uri.rpartition("/")[2]


async def status_of(at: AdminNode, client: Client, media_id: str) -> int:
    path = f"/_matrix/client/v1/media/download/{at.node.server_name}/{media_id}"
    response = await at.node.http.get(path, headers={"Authorization": f"Bearer {client.token}"})
    return response.status_code


async def test_media_are_listed_quarantined_protected_and_deleted() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        here = at.node.server_name
        first, second, third = [
            await upload(at, client, octets, name)
            for client, octets, name in (
                (alice, b"one", "a.txt"),
                (alice, b"two, longer", "b.txt"),
                (bob, b"three", "c.txt"),
            )
        ]
        listed = await at.get(f"/v1/users/{alice.user_id}/media")
        assert (listed["total"], [each["media_id"] for each in listed["media"]]) == (2, [second, first])
        assert (listed["media"][1]["upload_name"], listed["media"][1]["media_length"]) == ("a.txt", 3)
        by_size = await at.get(f"/v1/users/{alice.user_id}/media", order_by="media_length", limit="1")
        assert ([each["media_id"] for each in by_size["media"]], by_size["next_token"]) == ([first], 1)
        assert (await at.get(f"/v1/media/{here}/{first}"))["media_info"]["user_id"] == alice.user_id

        await at.post(f"/v1/media/quarantine/{here}/{first}")
        assert await status_of(at, alice, first) == 404
        await at.post(f"/v1/media/unquarantine/{here}/{first}")
        assert await status_of(at, alice, first) == 200
        await at.post(f"/v1/media/protect/{first}")
        assert await at.post(f"/v1/user/{alice.user_id}/media/quarantine") == {"num_quarantined": 1}
        assert [await status_of(at, alice, each) for each in (first, second)] == [200, 404]
        await at.post(f"/v1/media/unprotect/{first}")

        room_id = (await bob.post("/createRoom", {}))["room_id"]
        content: Any = {"msgtype": "m.file", "body": "c", "url": f"mxc://{here}/{third}"}
        await bob.put(f"/rooms/{room_id}/send/m.room.message/1", content)
        content["url"] = "mxc://far.example/abc"
        await bob.put(f"/rooms/{room_id}/send/m.room.message/2", content)
        assert await at.get(f"/v1/room/{room_id}/media") == {
            "local": [f"mxc://{here}/{third}"],
            "remote": ["mxc://far.example/abc"],
        }
        assert await at.post(f"/v1/room/{room_id}/media/quarantine") == {"num_quarantined": 1}
        assert await status_of(at, bob, third) == 404

        statistics = await at.get("/v1/statistics/users/media", order_by="media_length", dir="b")
        assert statistics["users"] == [
            {"user_id": alice.user_id, "displayname": "alice", "media_count": 2, "media_length": 14},
            {"user_id": bob.user_id, "displayname": "bob", "media_count": 1, "media_length": 5},
        ]
        assert (await at.get("/v1/statistics/users/media", search_term="BOB"))["total"] == 1
        assert (await at.get("/v1/statistics/database/rooms"))["rooms"][0]["room_id"] == room_id

        assert await at.delete(f"/v1/media/{here}/{first}") == {"deleted_media": [first], "total": 1}
        assert (await at.ask("DELETE", f"/v1/media/{here}/{first}")).errcode == "M_NOT_FOUND"
        await at.put(f"/v2/users/{bob.user_id}", {"avatar_url": f"mxc://{here}/{third}"})
        swept = await at.ask("POST", "/v1/media/delete", {}, before_ts=str(2**50))
        assert swept.body == {"deleted_media": [second], "total": 1}
        assert await at.delete(f"/v1/users/{bob.user_id}/media") == {"deleted_media": [third], "total": 1}
        assert (await at.ask("POST", "/v1/purge_media_cache", {}, before_ts=str(2**50))).body == {"deleted": 0}
        for method, path in (
            ("POST", "/v1/media/delete"),
            ("POST", "/v1/purge_media_cache"),
            ("GET", f"/v1/users/{bob.user_id}/media?order_by=smell"),
            ("GET", "/v1/statistics/users/media?order_by=smell"),
        ):
            assert (await at.ask(method, path)).status == 400, path
