"""The SEC digest tells apart whatever is different, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.meg import digest
from p2pserver.meg.digest import DigestEntry, changed_sum, sec_digest, state_digest, state_sum

STATE = {("m.room.topic", ""): "$topic", ("m.room.member", "@a:x"): "$join"}
ENTRIES = [
    DigestEntry("$join", rejected=False, state_before={}, state_after={("m.room.member", "@a:x"): "$join"}),
    DigestEntry(
        "$topic",
        rejected=False,
        state_before={("m.room.member", "@a:x"): "$join"},
        state_after=STATE,
        parents=("$join",),
    ),
]
texts = st.text(max_size=3)
states = st.dictionaries(st.tuples(texts, texts), texts, max_size=3)


def test_order_does_not_matter() -> None:
    assert sec_digest(ENTRIES, STATE) == sec_digest(ENTRIES[::-1], dict(reversed(STATE.items())))
    assert len(sec_digest([], {})) == 32


@pytest.mark.parametrize(
    "change",
    [{"event_id": "$other"}, {"rejected": True}, {"state_before": STATE}, {"state_after": {}}, {"parents": ()}],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts(change: dict[str, Any]) -> None:
    assert sec_digest([ENTRIES[0], replace(ENTRIES[1], **change)], STATE) != sec_digest(ENTRIES, STATE)


def test_the_resolution_and_every_event_count() -> None:
    assert sec_digest(ENTRIES, {}) != sec_digest(ENTRIES, STATE)
    assert sec_digest(ENTRIES[:1], STATE) != sec_digest(ENTRIES, STATE)


@given(one=states, other=states)
def test_different_states_have_different_digests(one: dict[Any, str], other: dict[Any, str]) -> None:
    assert (state_digest(one) == state_digest(other)) == (one == other)


@given(one=states, other=states)
def test_sum_follows_a_change(one: dict[Any, str], other: dict[Any, str]) -> None:
    removed = {slot: event_id for slot, event_id in one.items() if other.get(slot) != event_id}
    added = {slot: event_id for slot, event_id in other.items() if one.get(slot) != event_id}
    assert changed_sum(state_sum(one), removed=removed, added=added) == state_sum(other)


def test_what_happened_to_an_ancestor_counts() -> None:
    assert sec_digest([replace(ENTRIES[0], rejected=True), ENTRIES[1]], STATE) != sec_digest(ENTRIES, STATE)


def test_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        sec_digest([replace(ENTRIES[0], parents=("$topic",)), ENTRIES[1]], STATE)


def test_digest_without_states_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "state_digest", lambda state: b"")
    with pytest.raises(AssertionError):
        test_every_field_counts({"state_after": {}})
