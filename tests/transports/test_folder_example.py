"""The example of a transport of one's own keeps the contract, with nothing but a subclass of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.folder_transport import FolderTransport
from transports.conformance import TransportConformance
from transports.contract import Transport


class TestFolder(TransportConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, side: str) -> Transport:
        return FolderTransport.from_parameters(f"path={self.folder},name={side},peer={'ba'['ab'.index(side)]}")
