"""Whole simulated nodes on one serial line, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from p2pserver.node.simulation import SimulatedMesh
from tests.transports.serial_lines import VirtualLine, WireModel
from transports.serial import SerialParameters, SerialTransport


class _SerialNetwork:
    """Stands where `SimulatedMesh` has a `SimNetwork`: one line that all nodes are on."""

    def __init__(self, names: Sequence[str], text: str, *, seed: int, **line: Any) -> None:
        self.crashed: set[str] = set()
        self.parameters = SerialParameters.parse(text)
        self.model = WireModel(
            len(names), 1 / self.parameters.octet_s, seed=seed, shared=self.parameters.modem.shared, **line
        )
        self._line = VirtualLine(self.model, grain_s=0.01)
        self._names = list(names)
        self._seed = seed

    def transport(self, name: str) -> SerialTransport:
        end = self._names.index(name)
        return SerialTransport(self.parameters, port=self._line.port(end), rng=random.Random(f"{self._seed} {name}"))


class SerialMesh(SimulatedMesh):
    """`text` is what would follow `serial:`; further keywords are those of `WireModel`."""

    network: Any

    def __init__(self, names: Sequence[str], text: str, *, seed: int = 1, **line: Any) -> None:
        super().__init__(names, seed=seed)
        self.network = _SerialNetwork(names, text, seed=seed, **line)

    @property
    def model(self) -> WireModel:
        model: WireModel = self.network.model
        return model
