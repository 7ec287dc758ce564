"""The serial transport keeps the contract: on cables and shared channels, at 300 to 460,800 bit/s, clean and noisy."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.transports.serial_lines import PtyLine, VirtualLine, WireModel, pty_line
from transports.conformance import SharedMediumConformance, TransportConformance
from transports.contract import Transport
from transports.serial import SerialParameters, SerialTransport
from transports.sim import run_virtual


class _Virtual(TransportConformance):
    found_within_s = 3_000.0
    check_within_s = 100_000.0
    parameters = "virtual?baud=9600"
    shared = False
    flipped = 0.0
    lost = 0.0
    noise_per_s = 0.0

    def prepare(self) -> None:
        parameters = SerialParameters.parse(self.parameters)
        self.made = 0
        self.line = VirtualLine(
            WireModel(
                3,
                1 / parameters.octet_s,
                shared=self.shared,
                flipped=self.flipped,
                lost=self.lost,
                noise_per_s=self.noise_per_s,
            ),
            grain_s=0.01,
        )

    def make(self, side: str) -> Transport:
        self.made += 1
        port = self.line.port("abc".index(side))
        return SerialTransport(SerialParameters.parse(self.parameters), port=port, rng=random.Random(self.made))

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        run_virtual(check, limit_s=200_000)


class TestCableAt9600(_Virtual):
    pass


class TestCableAt1200(_Virtual):
    parameters = "virtual?baud=1200"


class TestCableAt300(_Virtual):
    parameters = "virtual?baud=300"


class TestNoisyCableAt9600(_Virtual):
    parameters = "virtual?baud=9600&datagram=100"
    delivers = False
    flipped = 0.0005
    lost = 0.0005
    noise_per_s = 2.0


class TestBusAt1200(_Virtual, SharedMediumConformance):
    parameters = "virtual?baud=1200&profile=bus&datagram=60"
    shared = True
    delivers = False


class TestNoisyBusAt9600(_Virtual, SharedMediumConformance):
    parameters = "virtual?baud=9600&profile=bus&datagram=100"
    shared = True
    delivers = False
    flipped = 0.0005


class TestPty(TransportConformance):
    """Real threads, real terminals."""

    found_within_s = 25.0

    @pytest.fixture(autouse=True)
    def _line(self) -> Iterator[None]:
        with pty_line(WireModel(2, 46_080)) as self.line:
            yield

    line: PtyLine

    def make(self, side: str) -> Transport:
        path = self.line.paths[{"a": 0, "b": 1}[side]]
        return SerialTransport.from_parameters(f"{path}?baud=460800")
