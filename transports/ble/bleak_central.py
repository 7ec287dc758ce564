"""The central role over bleak: BlueZ, CoreBluetooth and WinRT, or any backend that is passed in."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService
from bleak.exc import BleakError

from transports.ble.radio import ChannelUser, ConnectFailed, RadioDown, Sighting
from transports.ble.uuids import COMPANY_ID, CTL, INFO, RX, SERVICE, SHORT_ID_OCTETS, TX

try:
    from bleak_retry_connector import establish_connection
except ImportError:  # a plain dial does, where BlueZ is in a good mood
    establish_connection = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
_T = TypeVar("_T")

DEVICES_MAX = 256
SCAN_ATTEMPTS = 6
SCAN_AGAIN_S = 1.0
_SCANNER_S = 10.0
_CONNECT_S = 20.0
_ATT_S = 10.0
_DISCONNECT_S = 6.0
_DIAL_ATTEMPTS = 2


class BleakCentral:
    """Implements `Central`. `adapter` is BlueZ's name of it, such as hci0; None is its default."""

    def __init__(
        self,
        *,
        adapter: str | None = None,
        scanner_backend: type[BaseBleakScanner] | None = None,
        client_backend: type[BaseBleakClient] | None = None,
        forget: Callable[[BLEDevice], Awaitable[None]] | None = None,
    ) -> None:
        """`forget` makes the system drop what it remembers of a device, after a dial that failed."""
        self.note: str | None = None
        self._adapter = adapter
        self._scanner_backend = scanner_backend
        self._client_backend = client_backend
        self._forget = forget
        self._scanner: BleakScanner | None = None
        self._seen: Callable[[Sighting], None] | None = None
        self._devices: OrderedDict[str, BLEDevice] = OrderedDict()

    @property
    def _bluez(self) -> Any:
        return {"adapter": self._adapter} if self._adapter else {}

    async def hear(self, seen: Callable[[Sighting], None], down: Callable[[str], None]) -> None:
        self._seen = seen

    async def scan(self, on: bool) -> None:
        if on and self._scanner is None:
            await self._start_scan()
        elif not on and self._scanner is not None:
            scanner, self._scanner = self._scanner, None
            await self._adapter_does(scanner.stop())

    async def _start_scan(self) -> None:
        """BlueZ may still be ending the last scan or a connection: then it is asked again."""
        for attempt in range(SCAN_ATTEMPTS):
            scanner = self._scanner_of()
            try:
                await self._adapter_does(scanner.start())
            except RadioDown as down:
                if "InProgress" not in str(down) or attempt == SCAN_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(SCAN_AGAIN_S)
            else:
                self._scanner = scanner
                return

    def _scanner_of(self) -> BleakScanner:
        """On BlueZ the daemon looks for the service, and not bleak.

        bleak looks among what BlueZ last said that a device offers. After a connection that is what GATT found there,
        and a neighbor that was ending just then had no service any more: bleak would not hear it again. Without
        `DuplicateData` BlueZ tells of a neighbor once, and then only when its signal has another strength.
        """
        if self._scanner_backend is not None or sys.platform != "linux":
            return BleakScanner(self._heard, [SERVICE], bluez=self._bluez, backend=self._scanner_backend)
        bluez: Any = {**self._bluez, "filters": {"UUIDs": [SERVICE], "DuplicateData": True}}
        return BleakScanner(self._heard, bluez=bluez)

    async def _adapter_does(self, operation: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_SCANNER_S):
                await operation
        except TimeoutError:
            raise RadioDown("the system's Bluetooth hangs") from None
        except Exception as error:  # noqa: BLE001  bleak lets through whatever the system's stack raises
            raise RadioDown(_said(error)) from None

    def _heard(self, device: BLEDevice, advertisement: AdvertisementData) -> None:
        data = advertisement.manufacturer_data.get(COMPANY_ID, b"")
        if SERVICE not in advertisement.service_uuids and len(data) != SHORT_ID_OCTETS:
            return  # another program scans for everything, and BlueZ tells everybody
        self._devices[device.address] = device
        self._devices.move_to_end(device.address)
        while len(self._devices) > DEVICES_MAX:
            self._devices.popitem(last=False)
        short_id = bytes(data[:SHORT_ID_OCTETS]) if len(data) >= SHORT_ID_OCTETS else None
        if self._seen is not None:
            self._seen(Sighting(address=device.address, short_id=short_id))

    async def connect(self, address: str) -> BleakChannel:
        device = self._devices.get(address)
        if device is None:
            raise ConnectFailed("it was not heard for long")
        channel = BleakChannel(address, self._forgetting(device))
        try:
            async with asyncio.timeout(_CONNECT_S):
                channel.client = await self._dial(device, channel)
            channel.find_characteristics()
        except Exception as error:
            channel.failed = True
            await channel.disconnect()
            if isinstance(error, ConnectFailed):
                raise
            raise ConnectFailed("it does not answer" if isinstance(error, TimeoutError) else _said(error)) from None
        return channel

    def _forgetting(self, device: BLEDevice) -> Callable[[], Awaitable[None]] | None:
        forget = self._forget
        return None if forget is None else lambda: forget(device)

    async def _dial(self, device: BLEDevice, channel: BleakChannel) -> BleakClient:
        options: dict[str, Any] = {"bluez": self._bluez, "backend": self._client_backend}
        if establish_connection is not None and (sys.platform == "linux" or self._client_backend is not None):

            def client_of(_device: BLEDevice, **given: Any) -> BleakClient:
                # else it takes whatever connection another adapter of this machine has to the same neighbor
                return BleakClient(device, **given)

            return await establish_connection(
                cast(type[BleakClient], client_of),
                device,
                device.address,
                disconnected_callback=channel.disconnected,
                max_attempts=_DIAL_ATTEMPTS,
                ble_device_callback=lambda: self._devices.get(device.address, device),
                use_services_cache=False,
                timeout=_CONNECT_S,
                **options,
            )
        client = BleakClient(device, channel.disconnected, timeout=_CONNECT_S, **options)
        await client.connect()
        return client

    async def close(self) -> None:
        self._seen = None
        try:
            await self.scan(on=False)
        except RadioDown as down:
            log.debug("the scan did not end", extra={"error": str(down)})


class BleakChannel:
    """A connection that we made."""

    def __init__(self, address: str, forget: Callable[[], Awaitable[None]] | None = None) -> None:
        self.address = address
        self.client: BleakClient | None = None
        self.failed = False
        """What the system knows of the other side may be wrong."""
        self._forget = forget
        self._characteristics: dict[str, BleakGATTCharacteristic] = {}
        self._user: ChannelUser | None = None
        self._over = False

    @property
    def att_mtu(self) -> int:
        """What BlueZ calls the MTU is a guess; what it takes per write is not."""
        return self._characteristics[RX].max_write_without_response_size + 3

    def find_characteristics(self) -> None:
        """Raises: ConnectFailed."""
        services = [each for each in self._client().services if each.uuid == SERVICE]
        # after a restart of the other side BlueZ may hold the old service beside the new one
        found = {item.uuid: item for each in sorted(services, key=_handle) for item in each.characteristics}
        if not {INFO, CTL, RX, TX} <= found.keys():
            raise ConnectFailed("it does not have the service that it announced")
        self._characteristics = found

    async def read_info(self) -> bytes:
        return bytes(await self._answered(self._client().read_gatt_char(self._characteristics[INFO])))

    async def subscribe(self, user: ChannelUser) -> None:
        self._user = user
        await self._answered(
            self._client().start_notify(self._characteristics[TX], lambda _, value: user.datagram_arrived(bytes(value)))
        )

    async def write_control(self, octets: bytes) -> None:
        await self._answered(self._client().write_gatt_char(self._characteristics[CTL], octets, response=True))

    async def write(self, datagram: bytes) -> None:
        if self._over:
            raise BleakError("the connection is over")
        await self._client().write_gatt_char(self._characteristics[RX], datagram, response=False)

    async def disconnect(self) -> None:
        if self.client is not None:
            await self._try(self.client.disconnect(), "a disconnection")
        if self.failed and self._forget is not None:
            self.failed = False
            await self._try(self._forget(), "forgetting a device")

    async def _try(self, operation: Awaitable[None], what: str) -> None:
        try:
            async with asyncio.timeout(_DISCONNECT_S):
                await operation
        except Exception as error:  # noqa: BLE001  whatever it is, there is nothing more to do for this connection
            log.debug("%s failed", what, extra={"error": _said(error)})

    def disconnected(self, _client: BleakClient) -> None:
        self._over = True
        if self._user is not None:
            self._user.channel_over("out of range, or closed by the other side")

    def _client(self) -> BleakClient:
        if self.client is None:
            raise ConnectFailed("not connected")
        return self.client

    async def _answered(self, operation: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(_ATT_S):
                return await operation
        except Exception as error:  # noqa: BLE001  bleak lets through whatever the system's stack raises
            self.failed = True
            raise ConnectFailed("it stopped answering" if isinstance(error, TimeoutError) else _said(error)) from None


def _handle(service: BleakGATTService) -> int:
    return service.handle


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
