"""Whatever ends a task that nobody awaits is told of."""

from __future__ import annotations

import asyncio
import logging

import pytest

from transports.watched import watched


async def test_a_task_that_an_error_ended_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def work() -> None:
        raise KeyError("lost")

    task = watched(work(), name="some work", broken=told.append)
    with caplog.at_level(logging.ERROR):
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
    assert "restart it" in told[0]
    assert "KeyError('lost')" in told[0]
    assert [record.exc_info for record in caplog.records]


async def test_one_that_ends_well_or_is_cancelled_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    tasks = [watched(work(seconds), name="some work", broken=told.append) for seconds in (0.0, 60.0)]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not told
    assert not caplog.records
