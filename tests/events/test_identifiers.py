"""Names: one key has one spelling; the grammars from both sides."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.identifiers import (
    InvalidIdentifier,
    check_domain,
    is_event_id,
    is_new_localpart,
    is_room_id,
    is_server_name,
    is_user_id,
    public_key_of,
    server_name_of,
    server_of,
    split_identifier,
)
from tests.events.properties import steady

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
keys = st.binary(min_size=32, max_size=32)


@steady
@given(keys)
def test_a_key_is_spelled_and_read_back(key):
    name = server_name_of(key)
    assert len(name) == 52
    assert is_server_name(name)
    assert public_key_of(name) == key
    assert public_key_of(server_name_of(key, "mesh.example.org")) == key


@steady
@given(keys)
def test_sixteen_spellings_decode_to_one_key_and_one_is_accepted(key):
    name = server_name_of(key)
    spellings = [
        name[:-1] + last
        for last in ALPHABET
        if base64.b32decode((name[:-1] + last).upper() + "====") == key  # what a lax decoder sees
    ]
    assert len(spellings) == 16
    assert [spelling for spelling in spellings if public_key_of(spelling) is not None] == [name]


@steady
@given(st.text(alphabet=ALPHABET, min_size=52, max_size=52))
def test_every_accepted_label_is_the_spelling_of_its_key(label):
    key = public_key_of(label)
    assert key is None or server_name_of(key) == label


@steady
@given(keys, st.integers(0, 51))
def test_upper_case_is_another_name(key, place):
    name = server_name_of(key)
    changed = name[:place] + name[place].upper() + name[place + 1 :]
    assert (public_key_of(changed) is None) == (changed != name)


@steady
@given(st.text())
def test_no_text_breaks_the_grammars(text):
    for sigil in "@!$#":
        for identifier in (text, sigil + text, f"{sigil}{text}:example.org", f"{sigil}a:{text}"):
            assert is_user_id(identifier) in (True, False)
            assert is_room_id(identifier) in (True, False)
            assert is_event_id(identifier) in (True, False)
    assert public_key_of(text) is None
    assert is_server_name(text) in (True, False)


NAME = server_name_of(bytes(range(32)))


@pytest.mark.parametrize(
    "other",
    [
        NAME[:-1],
        NAME + "a",
        NAME + "=",
        NAME + "====",
        NAME + ".",
        NAME + ":8448",
        NAME + ".example.org:8448",
        NAME + ".Example.org",
        NAME + "..org",
        NAME + ".-a.org",
        NAME + ".a_b.org",
        NAME + ".exämple.org",
        NAME + ".example.org.",
        NAME + "\n",
        NAME + ".org\n",
        " " + NAME,
        "www." + NAME,
        NAME + "." + "a" * 64,
        NAME + ".a" * 90,
        "1" + NAME[1:],
        "",
    ],
)
def test_other_names_are_not_self_certifying(other):
    assert public_key_of(other) is None


@pytest.mark.parametrize(
    "domain", ["", ".", "a.", ".a", "A.b", "a b", "-a", "a-", "a:1", "a" * 64, "é.org", "a\n", "a." * 90 + "a"]
)
def test_domains_that_are_none(domain):
    with pytest.raises(InvalidIdentifier):
        check_domain(domain)
    with pytest.raises(InvalidIdentifier):
        server_name_of(bytes(32), domain)


@pytest.mark.parametrize("domain", ["org", "mesh.example.org", "xn--exmple-cua.org", "a-b.c1", "1.2", "a" * 63])
def test_domains_that_are_some(domain):
    assert server_name_of(bytes(32), domain) == "a" * 52 + "." + domain


def test_the_longest_name_has_230_characters():
    fits = ".".join(["a" * 58] * 3)
    assert len(server_name_of(bytes(32), fits)) == 229
    assert len(server_name_of(bytes(32), fits + "a")) == 230
    with pytest.raises(InvalidIdentifier):
        server_name_of(bytes(32), fits + "aa")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_another_length(length):
    with pytest.raises(InvalidIdentifier):
        server_name_of(bytes(length))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("example.org", True),
        ("example.org:8448", True),
        ("EXAMPLE.org", True),
        ("1.2.3.4", True),
        ("1.2.3.4:80", True),
        ("[::1]", True),
        ("[2001:db8::1]:8448", True),
        ("localhost", True),
        ("example.org:", False),
        ("example.org:123456", False),
        ("example.org:٣", False),
        ("exa_mple.org", False),
        ("exämple.org", False),
        ("::1", False),
        ("example.org/x", False),
        ("a b", False),
        ("", False),
        ("a" * 255, True),
        ("a" * 256, False),
    ],
)
def test_server_names(text, valid):
    assert is_server_name(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("@alice:example.org", True),
        ("@:example.org", True),
        ("@Alice Bob/é😀\x01:example.org", True),
        ("@a:example.org:80", True),
        ("@a:[::1]:80", True),
        ("@a\0:example.org", False),
        ("@a\ud800:example.org", False),
        ("@alice", False),
        ("@alice:", False),
        ("alice:example.org", False),
        ("@a:b:c", False),
        ("@a:b c", False),
        ("@" + "é" * 121 + ":example.org", True),
        ("@" + "é" * 121 + "x:example.org", False),
        (None, False),
        (5, False),
        (["@a:b"], False),
    ],
    ids=repr,
)
def test_user_ids(text, valid):
    assert is_user_id(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [("alice", True), ("a.b_c=d-e/f+1", True), ("Alice", False), ("", False), ("é", False), ("a\n", False)],
)
def test_new_localparts(text, valid):
    assert is_new_localpart(text) is valid


HASH = "AZaz09-_" * 5 + "abc"


@pytest.mark.parametrize(
    ("text", "room", "event"),
    [
        ("!" + HASH, True, False),
        ("$" + HASH, False, True),
        ("!room:example.org", True, False),
        ("!é:example.org", True, False),
        ("$event:example.org", False, True),
        ("$a/b+c:example.org:8448", False, True),
        ("$event:", False, False),
        ("$:example.org", False, False),
        ("$a\0:example.org", False, False),
        ("$" + "a" * 242 + ":example.org", False, True),
        ("$" + "a" * 243 + ":example.org", False, False),
        ("!" + HASH[:-1], False, False),
        ("$" + HASH + "a", False, False),
        ("$" + HASH[:-1] + "+", False, False),
        ("$" + "a/" * 21 + "+", False, True),
        ("!" + "a/" * 21 + "+", False, False),
        ("$" + HASH + "\n", False, False),
        ("!" + HASH + "\n", False, False),
        ("!:example.org", False, False),
        ("!a\0:example.org", False, False),
        ("!a\ud800:example.org", False, False),
        ("!" + "a" * 242 + ":example.org", True, False),
        ("!" + "a" * 243 + ":example.org", False, False),
        (None, False, False),
    ],
    ids=repr,
)
def test_room_and_event_ids(text, room, event):
    assert is_room_id(text) is room
    assert is_event_id(text) is event


def test_split_identifier():
    assert split_identifier("#lobby:example.org:80", "#") == ("lobby", "example.org:80")
    assert split_identifier("@:example.org", "@") == ("", "example.org")
    assert server_of("@a:example.org:80") == "example.org:80"
    assert server_of("nothing") == ""
    for wrong in (
        "lobby:example.org",
        "#lobby",
        "#lobby:",
        "@lobby:example.org",
        "#a\0:b",
        "#a\ud800:b",
        "#" + "a" * 250 + ":b.cde",
        "",
    ):
        with pytest.raises(InvalidIdentifier):
            split_identifier(wrong, "#")
