"""With one thing broken, the tests of knocking, restricted rooms, spaces, search and delayed events go red."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from p2pserver.client_api import delayed_events, space_hierarchy
from p2pserver.rooms import invites, restricted
from p2pserver.rooms.service import Rooms
from p2pserver.store import search_index
from tests.client_api import (
    test_delayed_events,
    test_knocking,
    test_personal_blocks,
    test_restricted_joins,
    test_search,
    test_spaces,
)

BROKEN: list[tuple[Any, str, Any, Callable[[], Awaitable[None]]]] = [
    (
        Rooms,
        "visible_to",
        lambda self, tx, user_id, events: [True] * len(events),
        test_search.test_history_that_somebody_may_not_see_is_not_found_nor_counted,
    ),
    (search_index, "forget", lambda *_: None, test_search.test_edits_and_redactions_change_what_is_found),
    (invites, "_may_end", lambda held, event: True, test_knocking.test_somebody_without_power_cannot_refuse_a_knock),
    (
        restricted,
        "_is_join_of",
        lambda event, room_id, origin: True,
        test_restricted_joins.test_nothing_is_signed_that_is_not_a_join_this_node_would_allow,
    ),
    (
        space_hierarchy,
        "user_sees",
        lambda tx, user_id, summary: True,
        test_spaces.test_a_space_is_shown_depth_first_in_order_and_page_by_page,
    ),
    (invites, "blocks_invites", lambda tx, user_id: False, test_personal_blocks.test_who_blocks_invites_gets_none),
    (
        delayed_events,
        "_is_overtaken",
        lambda api, tx, event: False,
        test_delayed_events.test_state_and_redactions_can_wait_and_are_overtaken_by_somebody_elses_state_alone,
    ),
]


@pytest.mark.parametrize(("where", "name", "broken", "story"), BROKEN, ids=[row[1] for row in BROKEN])
async def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, broken: Any, story: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await story()
