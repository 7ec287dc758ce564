"""The runs of this node, one for each start, and how to tell that its database has gone back.

Each run begins at a stream position that lies a random way ahead of the last one of the run before. So the tokens that
clients have from a time that this database does not know are of no run of it, and nothing that is new is behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from p2pserver.store.tx import Tx

RUNS_MAX: Final = 1_000
STRANGE_RUNS_MAX: Final = 1_000
FORMER_ROOMS_MAX: Final = 20_000
FORMER_TOPIC: Final = "former_rooms"
_UNKNOWN: Final = -1


class MarkStanding(Enum):
    """What a mark of ours that a peer kept tells."""

    KNOWN = "known"
    """The database was there, or it is known that it went back."""
    BEYOND = "beyond"
    """The run went on after what the database knows of it."""
    STRANGE = "strange"
    """The database knows nothing of the run."""


def begin_run(tx: Tx, run: bytes, *, ahead: int) -> None:
    """This process uses the database from now on. `ahead`: so many positions lie between it and the last run."""
    tx.execute("UPDATE runs SET ended = ? WHERE ended IS NULL", (tx.position(),))
    tx.skip_positions(ahead)
    tx.execute("INSERT INTO runs (run, began) VALUES (?, ?)", (run, tx.position()))
    tx.execute(
        "DELETE FROM runs WHERE number IN (SELECT number FROM runs ORDER BY number DESC LIMIT -1 OFFSET ?)", (RUNS_MAX,)
    )


def last_run_went_on(tx: Tx) -> None:
    """This database is an earlier state of the node: nobody here knows what the run did that it was taken of."""
    tx.execute("UPDATE runs SET ended = ? WHERE ended IS NULL", (_UNKNOWN,))


def standing_of(tx: Tx, run: bytes, position: int) -> MarkStanding:
    """What a mark tells that is certainly ours."""
    found = tx.one("SELECT number, ended FROM runs WHERE run = ? ORDER BY number DESC LIMIT 1", (run,))
    if found is not None:
        ended = tx.position() if found[1] is None else found[1]
        return MarkStanding.KNOWN if ended == _UNKNOWN or position <= ended else MarkStanding.BEYOND
    oldest = tx.one("SELECT MIN(began), COUNT(*) FROM runs")
    forgotten = oldest is not None and oldest[1] >= RUNS_MAX and position < oldest[0]
    return MarkStanding.KNOWN if forgotten else MarkStanding.STRANGE


def is_known(tx: Tx, run: bytes) -> bool:
    """Whether the database knows of a run, or may have forgotten it."""
    count = tx.one("SELECT COUNT(*), SUM(run = ?) FROM runs", (run,))
    return count is not None and (bool(count[1]) or count[0] >= RUNS_MAX)


def run_went_on(tx: Tx, run: bytes) -> None:
    """A run went on after what the database knows of it; who says so again says nothing new."""
    tx.execute("UPDATE runs SET ended = ? WHERE run = ? AND ended IS NOT NULL", (_UNKNOWN, run))


def note_strange_run(tx: Tx, run: bytes, position: int) -> bool:
    """Remembers a run that was not of this database; whether it was not known before."""
    known = tx.one("SELECT position FROM strange_runs WHERE run = ?", (run,))
    count = tx.one("SELECT COUNT(*) FROM strange_runs")
    if known is None and count is not None and count[0] >= STRANGE_RUNS_MAX:
        tx.execute("DELETE FROM strange_runs WHERE run = (SELECT run FROM strange_runs ORDER BY position LIMIT 1)")
    tx.execute(
        "INSERT INTO strange_runs (run, position) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET position = MAX(position, excluded.position)",
        (run, position),
    )
    return known is None


# Lives


def life(tx: Tx) -> int:
    """How often this node went on without knowing all that it had done."""
    row = tx.one("SELECT value FROM node WHERE name = 'life'")
    return 0 if row is None else int(row[0])


def begin_life(tx: Tx) -> None:
    tx.execute("INSERT OR REPLACE INTO node (name, value) VALUES ('life', ?)", (str(life(tx) + 1),))


def is_to_be_asked(tx: Tx, key: bytes) -> bool:
    """Whether a peer has not told yet, in this life, what it knows of our users."""
    row = tx.one("SELECT told_life FROM peers WHERE key = ?", (key,))
    return life(tx) > (0 if row is None else row[0])


def note_was_asked(tx: Tx, key: bytes) -> None:
    tx.execute("UPDATE peers SET told_life = ? WHERE key = ?", (life(tx), key))


# What is kept for peers


def marks_kept(tx: Tx) -> list[tuple[bytes, bytes]]:
    """(key, mark) of the peers that gave one."""
    return [(key, mark) for key, mark in tx.all("SELECT key, mark FROM peers WHERE mark != x'' ORDER BY key")]


def keep_marks(tx: Tx, marks: Sequence[tuple[bytes, bytes]]) -> None:
    """By key, the newest mark of a peer that was met."""
    tx.many("UPDATE peers SET mark = ? WHERE key = ?", [(mark, key) for key, mark in marks])


# Rooms of users who are not here any more


def add_former_rooms(tx: Tx, rooms: Sequence[tuple[str, str]], via: str) -> None:
    """(user ID, room ID): others say that the user is in the room, and there is no such account."""
    count = tx.one("SELECT COUNT(*) FROM former_rooms")
    assert count is not None
    tx.many(
        "INSERT OR IGNORE INTO former_rooms (user_id, room_id, via) VALUES (?, ?, ?)",
        [(user_id, room_id, via) for user_id, room_id in rooms[: max(0, FORMER_ROOMS_MAX - count[0])]],
    )
    tx.notify(FORMER_TOPIC)


def former_users(tx: Tx) -> list[str]:
    """Those who have rooms and no account."""
    return [
        user
        for (user,) in tx.all(
            "SELECT DISTINCT user_id FROM former_rooms WHERE user_id NOT IN (SELECT user_id FROM users)"
            " ORDER BY user_id"
        )
    ]


def has_former_rooms(tx: Tx) -> bool:
    return tx.one("SELECT 1 FROM former_rooms LIMIT 1") is not None


def rooms_of_returned(tx: Tx) -> list[tuple[str, str, str]]:
    """(user ID, room ID, server that knows the room) of users who have an account again."""
    return [
        (user, room, via)
        for user, room, via in tx.all(
            "SELECT f.user_id, f.room_id, f.via FROM former_rooms AS f JOIN users AS u ON u.user_id = f.user_id"
            " ORDER BY f.user_id, f.room_id"
        )
    ]


def forget_former_room(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("DELETE FROM former_rooms WHERE user_id = ? AND room_id = ?", (user_id, room_id))
