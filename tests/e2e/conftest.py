"""What the clients of these tests are made of."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.doors import SCRIPTS


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where the packages of `package-lock.json` are; whichever worker comes first installs them."""
    npm = shutil.which("npm")
    assert npm is not None, "these tests need Node.js with npm: apt-get install nodejs npm"
    lock, wanted = SCRIPTS / "package-lock.json", SCRIPTS / "node_modules" / ".package-lock.json"
    with (SCRIPTS / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not wanted.exists() or wanted.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run([npm, "ci"], cwd=SCRIPTS, check=True, capture_output=True)
            wanted.touch()
    return wanted.parent
