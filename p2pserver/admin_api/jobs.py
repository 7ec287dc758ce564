"""What an operator started and may ask about afterwards: rooms that are deleted, history that is purged.

Forgotten at a restart, and the oldest when there are very many. What a job did is in the database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

JOBS_MAX = 1000


@dataclass(slots=True, kw_only=True)
class Job:
    """`status` is `active`, `complete` or `failed`."""

    job_id: str
    room_id: str
    status: str = "active"
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work and notes how it ended. Raises: what the work raises."""
        try:
            await work
        except Exception as error:
            self.status, self.error = "failed", str(error)
            raise
        self.status = "complete"


class Jobs:
    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> Job:
        self._jobs[job.job_id] = job
        while len(self._jobs) > JOBS_MAX:
            self._jobs.popitem(last=False)
        return job

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def of_room(self, room_id: str) -> list[Job]:
        """Oldest first."""
        return [job for job in self._jobs.values() if job.room_id == room_id]
