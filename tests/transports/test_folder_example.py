"""The example of a transport of one's own keeps the contract, with nothing but a subclass of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import folder_transport
from examples.folder_transport import FolderTransport
from transports.conformance import TransportConformance
from transports.contract import Transport


def test_it_is_as_short_as_the_page_says() -> None:
    text = Path(folder_transport.__file__).read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 60


class TestFolder(TransportConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, side: str) -> Transport:
        return FolderTransport.from_parameters(f"path={self.folder},name={side},peer={'ba'['ab'.index(side)]}")
