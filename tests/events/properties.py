"""How property tests here run: the same every time, and without a deadline, since a machine that tests may be slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
