"""Hypothesis strategies for every message, with values up to the edges of what the wire takes."""

import base64
from typing import Any

from hypothesis import strategies as st

from p2pserver.events.canonical import LOOSE_INTEGER_MAX
from p2pserver.identifiers import server_name_of
from p2pserver.wire import messages as m
from p2pserver.wire.fields import NUMBER_MAX

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LOOSE_INTEGER_MAX, LOOSE_INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
json_objects = st.dictionaries(texts, json_values, max_size=6)
event_ids = st.binary(min_size=32, max_size=32).map(
    lambda octets: "$" + base64.urlsafe_b64encode(octets).decode().rstrip("=")
)
standard_event_ids = st.binary(min_size=32, max_size=32).map(
    lambda octets: "$" + base64.b64encode(octets).decode().rstrip("=")
)
chosen_event_ids = st.text("abc/+ é🙂", min_size=1, max_size=40).map(lambda opaque: f"${opaque}:example.org")
room_ids = event_ids.map(lambda event_id: "!" + event_id[1:]) | st.just("!old:example.org")
numbers = st.integers(0, NUMBER_MAX)


def ids(count_max: int, *, count_min: int = 0) -> st.SearchStrategy[Any]:
    """IDs of one room: hashes in URL-safe base64, or hashes in standard base64, or chosen ones."""
    return st.one_of(
        st.lists(kind, unique=True, min_size=count_min, max_size=count_max).map(tuple)
        for kind in (event_ids, standard_event_ids, chosen_event_ids)
    )


bodies = json_objects.map(m.encode_json)
marks = st.binary(min_size=m.MARK_OCTETS, max_size=m.MARK_OCTETS)
messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(
        m.Hello,
        server_name=st.binary(min_size=32, max_size=32).map(server_name_of),
        agent=st.just("p2pserver 0.1"),
        salt=st.binary(min_size=8, max_size=8),
        clock_ms=numbers,
        features=numbers,
        mark=marks,
        kept=st.one_of(st.just(b""), marks),
    ),
    st.builds(m.Keep, marks),
    st.builds(
        m.Beacons,
        st.lists(
            st.builds(m.Beacon, st.binary(min_size=4, max_size=4), st.binary(min_size=8, max_size=8)), max_size=5
        ).map(tuple),
    ),
    st.builds(
        m.Digests,
        st.lists(
            st.builds(m.RoomDigests, st.binary(min_size=4, max_size=4), *[st.binary(min_size=8, max_size=8)] * 3),
            max_size=5,
        ).map(tuple),
    ),
    st.builds(m.Leaves, room_ids, ids(5), st.booleans()),
    st.builds(m.Want, room_ids, ids(5, count_min=1), ids(5), numbers),
    st.builds(m.Pdus, room_ids, st.lists(json_objects, max_size=4).map(tuple), st.booleans(), st.booleans()),
    st.builds(m.Lacking, room_ids, ids(5)),
    st.builds(m.Offer, room_ids, ids(5)),
    st.builds(m.Stored, room_ids, ids(5)),
    st.builds(m.Item, numbers, st.sampled_from(m.ITEM_KINDS), bodies, st.booleans()),
    st.builds(m.ItemsStored, st.lists(numbers, max_size=5).map(tuple)),
    st.builds(m.Request, numbers, st.sampled_from(["join", "directory"]), bodies),
    st.builds(
        m.Hears,
        st.binary(min_size=8, max_size=8),
        st.integers(0, m.EPOCH_MAX),
        numbers,
        st.binary(min_size=8, max_size=8),
    ),
    st.builds(m.MediaWant, numbers, st.binary(min_size=1, max_size=16), numbers, st.integers(1, m.PART_OCTETS_MAX)),
    st.builds(m.MediaPart, numbers, st.binary(max_size=50)),
    st.builds(m.Ephemera, bodies),
    st.builds(m.Response, numbers, st.booleans(), st.binary(max_size=50), numbers),
)
