"""Bluetooth LE is held to the contract at every ATT MTU that phones and computers come up with."""

from __future__ import annotations

import pytest

from tests.transports.ble.radios import Place
from tests.transports.ble.virtual_air import VirtualAir
from transports.ble import BleTransport
from transports.conformance import TransportConformance
from transports.contract import Transport


class OnVirtualAir(TransportConformance):
    """GATT has no word for "wait", so a link that nobody reads from loses datagrams, and says so."""

    delivers = False
    mtu = 517
    bleak = False

    def prepare(self) -> None:
        air = VirtualAir()
        self.places = {side: Place(air, side, mtu=self.mtu, bleak=self.bleak) for side in "ab"}

    def make(self, side: str) -> Transport:
        return BleTransport(self.places[side])


class TestMtu23(OnVirtualAir):
    mtu = 23


class TestMtu185(OnVirtualAir):
    mtu = 185


class TestMtu247(OnVirtualAir):
    mtu = 247


class TestMtu517(OnVirtualAir):
    mtu = 517


class TestBleak(OnVirtualAir):
    mtu = 247
    bleak = True


@pytest.mark.parametrize("mtu", [23, 185, 247, 517])
def test_the_datagram_size_follows_from_the_mtu(mtu: int) -> None:
    async def body() -> None:
        async with case._linked() as pair:
            sizes = {link.profile.addressed_octets_max for link in (pair.link_a, pair.link_b)}
            assert sizes == {min(mtu - 3, 495)}

    case = OnVirtualAir()
    case.mtu = mtu
    case._check(body())
