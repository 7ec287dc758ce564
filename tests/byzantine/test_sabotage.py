"""The cases can fail: with one defence switched off in one correct node, the case that is about it goes red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from p2pserver.events import receipt as checks
from p2pserver.events.pdu import Pdu
from p2pserver.node.sabotage import replace_in_units
from p2pserver.rooms import healing, invites, judging, redacting, sending
from p2pserver.rooms import receipt as intake
from p2pserver.store import events, parked
from p2pserver.store.inline import InlineDatabase
from tests.byzantine import (
    test_carriers,
    test_fields,
    test_floods,
    test_forged_events,
    test_late_events,
    test_missing_parents,
    test_permissions,
    test_rooms_confused,
)
from tests.byzantine.scenario import ONE_LIAR, play
from tests.simulation.sabotages import acknowledge_before_the_commit

Arrange = Callable[[InlineDatabase], None]


def nothing_is_checked(*args: Any, **options: Any) -> None:
    return None


def always(*args: Any, **options: Any) -> bool:
    return True


def signatures_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, checks, "has_genuine", always)


def hashes_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, checks, "_hash_matches", always)


def sizes_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, checks, "_check_size", nothing_is_checked)


def references_not_counted(database: InlineDatabase) -> None:
    honest = checks.check_fields

    def lax(raw: Any, rules: Any, **options: Any) -> Any:
        return honest(raw, rules, **{**options, "limit_references": False})

    replace_in_units(database, checks, "check_fields", lax)


def first_copy_kept(database: InlineDatabase) -> None:
    """Whichever copy of an event comes first stays."""
    replace_in_units(database, events, "replace_copy", nothing_is_checked)


def last_copy_kept(database: InlineDatabase) -> None:
    """A copy whose content does not match its hash is as good as any."""
    honest = checks.check_all_on_receipt

    def lax(*args: Any, **options: Any) -> Any:
        found = honest(*args, **options)
        return [replace(each, redacted_copy=False) if isinstance(each, Pdu) else each for each in found]

    replace_in_units(database, intake, "check_all_on_receipt", lax)


def gaps_not_refused(database: InlineDatabase) -> None:
    """What is built on a missing parent is applied on what is held of the others."""
    honest = judging.ancestors_of

    def lax(tx: Any, event: Any, *args: Any, **options: Any) -> Any:
        found = honest(tx, event, *args, **options)
        if not found.missing or found.groups:
            return found
        current = intake.rooms.room(tx, event.room_id)
        assert current is not None
        assert current.current_group is not None
        return replace(found, missing=(), groups=(current.current_group,))

    replace_in_units(database, intake, "ancestors_of", lax)


def nothing_gives_way(database: InlineDatabase) -> None:
    """Waiting events are kept without bounds."""

    def keep(*args: Any, **options: Any) -> list[str]:
        return []

    replace_in_units(database, parked, "shrink", keep)


def cited_events_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, judging, "check_auth_events", nothing_is_checked)


def state_before_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, judging, "check_by_state_before", nothing_is_checked)


def anybody_redacts(database: InlineDatabase) -> None:
    replace_in_units(database, redacting, "_is_allowed", always)


def any_room_will_do(database: InlineDatabase) -> None:
    """An event that cites another room is rejected where that is known, and so kept, as the text has it."""
    honest = judging.ancestors_of

    def lax(*args: Any, **options: Any) -> Any:
        return replace(honest(*args, **options), foreign=False, missing=())

    replace_in_units(database, intake, "ancestors_of", lax)


def current_state_not_checked(database: InlineDatabase) -> None:
    replace_in_units(database, judging, "check_by_current_state", nothing_is_checked)


def invites_not_counted(database: InlineDatabase) -> None:
    replace_in_units(database, invites, "_make_room", always)


def states_not_healed(database: InlineDatabase) -> None:
    replace_in_units(database, healing, "plan", nothing_is_checked)


def parents_by_name(database: InlineDatabase) -> None:
    """The first extremities by ID, so that everybody covers the same."""

    def first(extremities: Any, **options: Any) -> list[str]:
        return sorted(extremities)[:20]

    replace_in_units(database, sending, "choose_parents", first)


SABOTAGES: list[tuple[Any, dict[str, Any], Arrange]] = [
    (test_forged_events.test_b01_forged_signature, {}, signatures_not_checked),
    (test_forged_events.test_b01_in_the_name_of_others, {}, signatures_not_checked),
    (test_forged_events.test_b02_wrong_content_hash, {}, hashes_not_checked),
    (test_forged_events.test_b03_same_id_two_contents, {"order": "twin first"}, first_copy_kept),
    (test_forged_events.test_b03_same_id_two_contents, {"order": "twin first"}, last_copy_kept),
    (test_missing_parents.test_b05_missing_parent, {}, gaps_not_refused),
    (test_missing_parents.test_b05_more_waiting_events_than_are_kept, {}, nothing_gives_way),
    (test_missing_parents.test_b06_prev_events, {"kind": test_missing_parents.on_another_room}, any_room_will_do),
    (test_missing_parents.test_b07_too_many_prev_events, {}, references_not_counted),
    (test_fields.test_b10_size_of_events, {}, sizes_not_checked),
    (test_permissions.test_b13_auth_events, {}, cited_events_not_checked),
    (test_permissions.test_b14_stale_auth_events, {}, state_before_not_checked),
    (test_permissions.test_b31_redaction_by_who_may_not, {}, anybody_redacts),
    (test_rooms_confused.test_b30_a_second_create_event, {"version": "11"}, cited_events_not_checked),
]


@pytest.mark.parametrize(
    ("test", "arguments", "sabotage"),
    [pytest.param(*each, id=f"{each[0].__name__}-{each[2].__name__}") for each in SABOTAGES],
)
def test_a_missing_defence_is_noticed(test: Any, arguments: dict[str, Any], sabotage: Arrange) -> None:
    async def story(scene: Any) -> None:
        await test.story(scene, **arguments)

    options = {**test.options, **{key: value for key, value in arguments.items() if key == "version"}}
    with pytest.raises(AssertionError, match=r"^(?!errors)"):
        play(ONE_LIAR, story, sabotage={"a": sabotage}, **options)


SABOTAGES_OF_ALL: list[tuple[Any, dict[str, Any], Arrange]] = [
    (test_floods.test_b15_fan_out_flood, {"rounds": 4}, parents_by_name),
    (test_floods.test_b20_invite_spam, {"invites": 240}, invites_not_counted),
    (test_late_events.test_b22_banned_and_backdated, {"accomplice": False}, current_state_not_checked),
    (test_late_events.test_b23_another_order_for_each_node_heals, {}, states_not_healed),
    (test_carriers.test_b32_only_malicious_relays_and_a_slow_link, {"way": "altered"}, first_copy_kept),
    (test_late_events.test_b34_power_cuts_during_an_attack, {"attack": "equivocation"}, acknowledge_before_the_commit),
]


@pytest.mark.parametrize(
    ("test", "arguments", "sabotage"),
    [pytest.param(*each, id=f"{each[0].__name__}-{each[2].__name__}") for each in SABOTAGES_OF_ALL],
)
def test_a_defence_that_all_lack_is_noticed(test: Any, arguments: dict[str, Any], sabotage: Arrange) -> None:
    async def story(scene: Any) -> None:
        await test.story(scene, **arguments)

    with pytest.raises(AssertionError, match=r"^(?!errors)"):
        play(ONE_LIAR, story, sabotage=dict.fromkeys(ONE_LIAR.honest, sabotage), **test.options)
