"""The SEC digest tells apart whatever is different, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.meg.digest import DigestEntry, sec_digest, state_digest

STATE = {("m.room.topic", ""): "$topic", ("m.room.member", "@a:x"): "$join"}
ENTRIES = [
    DigestEntry("$join", rejected=False, state_before={}, state_after={("m.room.member", "@a:x"): "$join"}),
    DigestEntry("$topic", rejected=False, state_before={("m.room.member", "@a:x"): "$join"}, state_after=STATE),
]
texts = st.text(max_size=3)
states = st.dictionaries(st.tuples(texts, texts), texts, max_size=3)


def test_order_does_not_matter() -> None:
    assert sec_digest(ENTRIES, STATE) == sec_digest(ENTRIES[::-1], dict(reversed(STATE.items())))
    assert len(sec_digest([], {})) == 32


@pytest.mark.parametrize(
    "change",
    [{"event_id": "$other"}, {"rejected": True}, {"state_before": STATE}, {"state_after": {}}],
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
