"""Tokens survive being written and read, and nothing else is one."""

import pytest

from p2pserver.client_api.stream_token import StreamToken
from p2pserver.errors import InvalidParam


@pytest.mark.parametrize(
    "token",
    [
        StreamToken(0),
        StreamToken(17),
        StreamToken(-4294967296),
        StreamToken(17, settle_from=12),
        StreamToken(17, settle_from=-3),
        StreamToken(17, to_device=9),
        StreamToken(17, settle_from=12, to_device=9),
    ],
)
def test_a_token_is_read_as_it_was_written(token: StreamToken) -> None:
    assert StreamToken.parse(str(token)) == token


@pytest.mark.parametrize(
    "text", ["", "s", "17", "s1.", "s1_", "s1_2.3", "s٣", "s1 ", "s--1", "s1_-2", "s" + "9" * 19, "t1"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        StreamToken.parse(text)
