"""Links to rooms, users and events, as the appendices have them, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.matrix_uri import InvalidLink, MatrixLink, is_link, read_link

HASH = "a" * 43
ROOM_3_EVENT = "$" + "a/b+" * 10 + "abc"

READ = [
    ("matrix:r/somewhere:example.org", MatrixLink(target="#somewhere:example.org")),
    ("matrix:room/old:example.org", MatrixLink(target="#old:example.org")),
    (
        "matrix:roomid/somewhere:example.org?via=elsewhere.ca",
        MatrixLink(target="!somewhere:example.org", via=("elsewhere.ca",)),
    ),
    (f"matrix:roomid/{HASH}?via=a.x&via=b.x&via=a.x", MatrixLink(target=f"!{HASH}", via=("a.x", "b.x"))),
    (
        "matrix:r/somewhere:example.org/e/event:example.org",
        MatrixLink(target="#somewhere:example.org", event_id="$event:example.org"),
    ),
    (f"matrix:roomid/{HASH}/event/{HASH}", MatrixLink(target=f"!{HASH}", event_id=f"${HASH}")),
    ("matrix:u/alice:example.org?action=chat", MatrixLink(target="@alice:example.org", action="chat")),
    ("MATRIX:user/alice:example.org?action=explode&x=y", MatrixLink(target="@alice:example.org")),
    ("matrix://localhost:8008/r/a:x?action=join#fragment", MatrixLink(target="#a:x", action="join")),
    ("matrix:r/caf%C3%A9%2Fbar:example.org", MatrixLink(target="#café/bar:example.org")),
    ("matrix:r/a:x?via=not%20a%20server", MatrixLink(target="#a:x")),
    ("https://matrix.to/#/%23somewhere%3Aexample.org", MatrixLink(target="#somewhere:example.org")),
    (
        "https://matrix.to/#/!somewhere%3Aexample.org?via=elsewhere.ca",
        MatrixLink(target="!somewhere:example.org", via=("elsewhere.ca",)),
    ),
    ("http://Matrix.to/#/@alice:example.org", MatrixLink(target="@alice:example.org")),
    (
        "https://matrix.to/#/%21somewhere%3Aexample.org/%24event%3Aexample.org?via=elsewhere.ca",
        MatrixLink(target="!somewhere:example.org", event_id="$event:example.org", via=("elsewhere.ca",)),
    ),
    (f"https://matrix.to/#/!{HASH}/{ROOM_3_EVENT}", MatrixLink(target=f"!{HASH}", event_id=ROOM_3_EVENT)),
]


@pytest.mark.parametrize(("text", "link"), [(text, link) for text, link in READ if link is not None])
def test_what_a_link_means(text: str, link: MatrixLink) -> None:
    assert is_link(text)
    assert read_link(text) == link


@pytest.mark.parametrize(
    "text",
    [
        "matrix:",
        "matrix:r",
        "matrix:r/",
        "matrix:r/no-server",
        "matrix:x/a:b",
        "matrix:roomid/a/e",
        "matrix:roomid/a:x/x/b:y",
        f"matrix:u/alice:x/e/{HASH}",
        "matrix:r/a:x/e/nonsense",
        "matrix:r/%zz:x",
        "matrix:r/%ff:x",
        "https://matrix.to/#/",
        "https://matrix.to/#/$event:x",
        "https://matrix.to/#/alice",
        "https://example.org/#/@a:x",
        "matrix:r/" + "a" * 5000 + ":x",
        "#a:x",
        "",
    ],
)
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(InvalidLink):
        read_link(text)


_OPAQUE = st.text(st.characters(blacklist_characters=":\0", blacklist_categories=("Cs",)), min_size=1, max_size=40)


@given(
    sigil=st.sampled_from("#!@"),
    local=_OPAQUE,
    event=st.none() | _OPAQUE,
    via=st.lists(st.sampled_from(["a.x", "b.example:8448", "[::1]:80"]), unique=True),
    action=st.sampled_from([None, "join", "chat"]),
)
def test_what_is_written_is_read_again(
    sigil: str, local: str, event: str | None, via: list[str], action: str | None
) -> None:
    event_id = None if event is None or sigil == "@" else f"${event}:x"
    link = MatrixLink(target=f"{sigil}{local}:server.example", event_id=event_id, via=tuple(via), action=action)
    try:
        assert read_link(link.uri()) == link
    except InvalidLink:
        assert not local.isprintable() or not (event or "a").isprintable()
        return
    to = read_link(link.matrix_to())
    assert (to.target, to.event_id, to.via) == (link.target, link.event_id, link.via)
