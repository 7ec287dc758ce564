"""The examples of the page run."""

from __future__ import annotations

import doctest
from pathlib import Path

IDENTITY = Path(__file__).parent.parent.parent / "docs" / "identity.md"


def test_examples_of_the_identity_page():
    outcome = doctest.testfile(str(IDENTITY), module_relative=False)
    assert outcome.attempted >= 10
    assert outcome.failed == 0
