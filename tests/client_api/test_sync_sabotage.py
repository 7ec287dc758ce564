"""The suites of sliding sync, counts, receipts and pushers go red when what they test is broken."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from p2pserver.client_api.sliding_sync.connections import StreamTold
from p2pserver.rooms import pushing, unread
from p2pserver.rooms.unread import ReadUpTo
from p2pserver.store import receipts
from tests.client_api import listener, test_pushers, test_receipts, test_sliding_sync, test_unread

advance = StreamTold.advance


def forgets_what_fell_behind(self: StreamTold, *args: Any) -> tuple[dict[str, int | None], StreamTold]:
    due, told = advance(self, *args)
    return due, StreamTold(told.current | told.behind.keys(), {})


def is_private_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "READ_PRIVATE", "m.nothing")


@pytest.mark.parametrize(
    ("sabotage", "suite"),
    [
        (
            lambda patch: patch.setattr(StreamTold, "advance", forgets_what_fell_behind),
            test_sliding_sync.test_a_room_that_falls_out_of_the_window_is_told_of_when_it_comes_back,
        ),
        (
            lambda patch: patch.setattr(unread, "thread_of", lambda tx, raw: unread.MAIN),
            test_unread.test_threads_have_counts_of_their_own,
        ),
        (is_private_to_nobody, test_receipts.test_a_private_receipt_is_for_the_users_own_devices),
        (
            lambda patch: patch.setattr(ReadUpTo, "covers", lambda self, position, thread: True),
            test_pushers.test_a_message_is_pushed_with_what_the_app_shows,
        ),
        (
            lambda patch: patch.setattr(pushing, "_device", lambda pusher: {"data": dict(pusher.content["data"])}),
            test_pushers.test_a_message_is_pushed_with_what_the_app_shows,
        ),
    ],
)
async def test_what_is_broken_is_found(
    sabotage: Callable[[pytest.MonkeyPatch], None],
    suite: Callable[[], Coroutine[Any, Any, None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotage(monkeypatch)
    monkeypatch.setattr(listener, "PATIENCE_S", 1)
    with pytest.raises((AssertionError, KeyError, TimeoutError)):
        await suite()
