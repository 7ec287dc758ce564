"""Reports are kept, paged, filtered, bounded and deleted."""

import pytest

from p2pserver.store import event_reports
from p2pserver.store.event_reports import add_report, delete_report, report, reports
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.tx import Tx


def _three(tx: Tx) -> None:
    add_report(tx, reporter="@a:x", received_ms=1, room_id="!r:x", event_id="$e", user_id="@c:x", score=-100)
    add_report(tx, reporter="@a:x", received_ms=2, room_id="!q:x", reason="spam")
    add_report(tx, reporter="@b:x", received_ms=3, user_id="@c:x")


async def test_reports_are_paged_filtered_and_deleted() -> None:
    database = InlineDatabase(SimulatedDisk(), commit_delay_s=0.0)
    await database.write(_three)

    def look(tx: Tx) -> None:
        found, total = reports(tx, start=0, limit=2)
        assert ([one.report_id for one in found], total) == ([3, 2], 3)
        found, total = reports(tx, start=1, limit=9, newest_first=False, reporter="@a")
        assert ([one.reason for one in found], total) == (["spam"], 2)
        assert reports(tx, start=0, limit=9, room_id="!r:")[1] == 1
        one = report(tx, 1)
        assert one is not None
        assert (one.event_id, one.user_id, one.score) == ("$e", "@c:x", -100)

    await database.read(look)
    assert await database.write(lambda tx: delete_report(tx, 2))
    assert not await database.write(lambda tx: delete_report(tx, 2))
    assert await database.read(lambda tx: report(tx, 2)) is None
    await database.close()


async def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reports, "REPORTS_MAX", 2)
    database = InlineDatabase(SimulatedDisk(), commit_delay_s=0.0)
    await database.write(_three)
    found, _ = await database.read(lambda tx: reports(tx, start=0, limit=9))
    assert [one.report_id for one in found] == [3, 2]
    await database.close()
