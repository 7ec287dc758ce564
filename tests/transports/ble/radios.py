"""Radios on the virtual air: Bumble's stack in both roles, or bleak as the central over a backend for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from bleak.backends.device import BLEDevice
from bumble import hci
from bumble.device import Device
from bumble.transport.common import AsyncPipeSink

from tests.transports.ble.virtual_air import AirController, VirtualAir
from transports.ble.bumble_radio import BumbleRadio
from transports.ble.radio import Radio


class Place:
    """A machine with a virtual controller built in. Its radio can be opened again and again."""

    def __init__(
        self,
        air: VirtualAir,
        name: str,
        *,
        mtu: int = 517,
        bleak: bool = False,
        dials: bool = True,
        accepts: bool = True,
        shows_id: bool = True,
        tags: bool = False,
        bit_rate: int = 1_000_000,
    ) -> None:
        """`bit_rate` is what the radio says of itself, and the link above paces to."""
        self.air, self.name, self.mtu, self.bleak = air, name, mtu, bleak
        self.dials, self.accepts, self.shows_id, self.tags = dials, accepts, shows_id, tags
        self.bit_rate = bit_rate
        self.controller: AirController | None = None
        self.bumble: BumbleRadio | None = None
        self.hang: set[str] = set()
        """Operations of bleak that never return."""
        self.opened = 0
        self.forgotten: list[str] = []
        """The addresses that the system was told to forget."""

    async def __call__(self) -> Radio:
        if self.controller is not None and self.controller in self.air.controllers:
            self.air.lose(self.controller)
        self.opened += 1
        self.controller = self.air.controller(self.name)
        self.controller.host = None
        device = _device_on(self.controller)
        self.bumble = bumble = BumbleRadio(device, None, self.name, mtu=self.mtu)
        await bumble.power_on()
        if not self.bleak:
            radio = Radio(
                central=bumble if self.dials else None,
                peripheral=bumble if self.accepts else None,
                name=self.name,
                tags=self.tags,
                bit_rate=self.bit_rate,
            )
            return radio if self.shows_id else _without_id(radio)
        from tests.transports.ble.bleak_on_bumble import backends
        from transports.ble.bleak_central import BleakCentral

        scanner, client = backends(device, self.mtu)
        client.hang = self.hang

        async def forget(device: BLEDevice) -> None:
            self.forgotten.append(device.address)

        central = BleakCentral(scanner_backend=scanner, client_backend=client, forget=forget)
        return Radio(central=central, peripheral=bumble, name=self.name)


class _Anonymous:
    """A peripheral whose platform cannot advertise an id, such as a Mac."""

    def __init__(self, peripheral: BumbleRadio) -> None:
        self._peripheral = peripheral

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peripheral, name)

    async def advertise(self, short_id: bytes | None) -> None:
        await self._peripheral.advertise(None if short_id is None else b"")


def _without_id(radio: Radio) -> Radio:
    assert isinstance(radio.peripheral, BumbleRadio)
    return replace(radio, peripheral=cast(Any, _Anonymous(radio.peripheral)))


def _device_on(controller: AirController) -> Device:
    """A host on a controller in the same process; both take turns in the event loop."""
    from bumble.host import Host

    host = Host(controller, AsyncPipeSink(controller))
    return Device(name="p2p", address=hci.Address.generate_static_address(), host=host)


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Waits for a condition that is looked at every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
