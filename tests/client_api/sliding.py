"""A client that speaks sliding sync, in either dialect."""

from typing import Any

from tests.client_api.harness import Answer, Client

DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ACCEPTED = "/_matrix/client/v4/sync"


async def ask(client: Client, pos: str | None = None, *, wait_ms: int = 0, **body: Any) -> Answer:
    """One request in the deployed dialect."""
    query: dict[str, Any] = {"timeout": wait_ms}
    if pos is not None:
        query["pos"] = pos
    return await client.ask("POST", DEPLOYED, body, **query)


async def slide(client: Client, pos: str | None = None, *, wait_ms: int = 0, **body: Any) -> dict[str, Any]:
    answer = await ask(client, pos, wait_ms=wait_ms, **body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.body
    return found


async def slide4(client: Client, pos: str | None = None, *, wait_ms: int = 0, **body: Any) -> dict[str, Any]:
    """One request in the accepted dialect."""
    if pos is not None:
        body["pos"] = pos
    answer = await client.ask("POST", ACCEPTED, {"timeout": wait_ms, **body})
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.body
    return found


def one_list(*ranges: tuple[int, int], limit: int = 10, state: Any = (), **filters: Any) -> dict[str, Any]:
    """`lists` with one list, `all`."""
    asked: dict[str, Any] = {"timeline_limit": limit, "required_state": list(state), "filters": filters}
    if ranges:
        asked["ranges"] = [list(each) for each in ranges]
    return {"all": asked}


def order(answer: dict[str, Any], key: str = "all") -> list[str]:
    """The rooms in the first window of a list."""
    rooms: list[str] = answer["lists"][key]["ops"][0]["room_ids"]
    return rooms
