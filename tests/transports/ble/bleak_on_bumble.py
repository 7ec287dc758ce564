"""A backend of bleak whose adapter is a Bumble device: bleak over real ATT, L2CAP and HCI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError
from bleak.uuids import normalize_uuid_str
from bumble import core, hci
from bumble.device import Advertisement, Connection, Device, Peer

_T = TypeVar("_T")
_PROPERTIES = {0x02: "read", 0x04: "write-without-response", 0x08: "write", 0x10: "notify", 0x20: "indicate"}
_UUIDS_128 = (0x06, 0x07)
_MANUFACTURER = 0xFF
_CONNECT_S = 5.0


def _uuid(uuid: core.UUID) -> str:
    return normalize_uuid_str(uuid.to_hex_str("-"))


class _Scanner(BaseBleakScanner):
    device: Device

    def __init__(self, detection_callback: Any, service_uuids: Any, scanning_mode: Any = "active", **_: Any) -> None:
        super().__init__(detection_callback, service_uuids)

    def _heard(self, advertisement: Advertisement) -> None:
        uuids: list[str] = []
        manufacturer: dict[int, bytes] = {}
        for kind, data in advertisement.data.ad_structures:
            if kind in _UUIDS_128:
                uuids += [_uuid(core.UUID.from_bytes(data[at : at + 16])) for at in range(0, len(data), 16)]
            elif kind == _MANUFACTURER:
                manufacturer[int.from_bytes(data[:2], "little")] = data[2:]
        found = AdvertisementData(None, manufacturer, {}, uuids, None, advertisement.rssi, ())
        address = advertisement.address.to_string(with_type_qualifier=False)
        device = self.create_or_update_device(address, address, None, advertisement.address, found)
        if self.is_allowed_uuid(uuids):
            self.call_detection_callbacks(device, found)

    async def start(self) -> None:
        self.seen_devices = {}
        self.device.on("advertisement", self._heard)
        await asyncio.shield(asyncio.create_task(self.device.start_scanning(active=True)))

    async def stop(self) -> None:
        self.device.remove_listener("advertisement", self._heard)
        await asyncio.shield(asyncio.create_task(self.device.stop_scanning()))


class _Client(BaseBleakClient):
    device: Device
    mtu = 517
    hang: set[str]
    """Operations that never return, as some stacks have them."""

    def __init__(
        self, target: Any, services: Any = None, *, disconnected_callback: Any, timeout: Any, **_: Any
    ) -> None:
        super().__init__(target, disconnected_callback=disconnected_callback, timeout=timeout)
        self._target = target.details if isinstance(target, BLEDevice) else hci.Address(target)
        self._connection: Connection | None = None
        self._subscribed: dict[int, Callable[[bytes], None]] = {}

    @property
    def name(self) -> str:
        return str(self.address)

    @property
    def mtu_size(self) -> int:
        return self._connection.att_mtu if self._connection is not None else 23

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def _maybe_hang(self, operation: str) -> None:
        if operation in self.hang:
            await asyncio.Event().wait()

    async def connect(self, pair: bool, **_: Any) -> None:
        await self._maybe_hang("connect")
        try:
            connection = await self.device.connect(self._target, timeout=_CONNECT_S)
        except (TimeoutError, core.BaseBumbleError) as error:
            raise BleakDeviceNotFoundError(str(self.address), str(error)) from error
        self._connection = connection
        connection.on("disconnection", self._disconnected)
        peer = Peer(connection)
        if self.mtu > 23:
            await self._until_over(peer.request_mtu(self.mtu))
        collection = BleakGATTServiceCollection()
        for service in await self._until_over(peer.discover_services()):
            found = BleakGATTService(service, service.handle, _uuid(service.uuid))
            collection.add_service(found)
            for item in await self._until_over(service.discover_characteristics()):
                properties = [name for bit, name in _PROPERTIES.items() if item.properties & bit]
                characteristic = BleakGATTCharacteristic(
                    item, item.handle, _uuid(item.uuid), properties, lambda: self.mtu_size - 3, found
                )
                collection.add_characteristic(characteristic)
                for descriptor in await self._until_over(item.discover_descriptors()):
                    collection.add_descriptor(
                        BleakGATTDescriptor(descriptor, descriptor.handle, _uuid(descriptor.type), characteristic)
                    )
        self.services = collection

    def _disconnected(self, _reason: int) -> None:
        self._connection = self.services = None
        if self._disconnected_callback:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        await self._maybe_hang("disconnect")
        if self._connection is not None:
            await self._connection.disconnect()

    async def pair(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    async def unpair(self) -> None:
        raise NotImplementedError

    async def _until_over(self, operation: Coroutine[Any, Any, _T]) -> _T:
        """Fails when the connection ends, as with BlueZ."""
        if self._connection is None:
            operation.close()
            raise BleakError("Not connected")
        over = asyncio.get_running_loop().create_future()

        def end(_reason: int) -> None:
            if not over.done():
                over.set_result(None)

        connection = self._connection
        connection.on("disconnection", end)
        task = asyncio.get_running_loop().create_task(operation)
        try:
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise BleakError("disconnected")
            return task.result()
        except core.BaseBumbleError as error:
            raise BleakError(str(error)) from error
        finally:
            connection.remove_listener("disconnection", end)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def read_gatt_char(self, characteristic: Any, **_: Any) -> bytearray:
        await self._maybe_hang("read")
        return bytearray(await self._until_over(characteristic.obj.read_value()))

    async def read_gatt_descriptor(self, descriptor: Any, **_: Any) -> bytearray:
        return bytearray(await self._until_over(descriptor.obj.read_value()))

    async def write_gatt_char(self, characteristic: Any, data: Any, response: bool) -> None:
        await self._maybe_hang("write")
        queue = self.device.host.le_acl_packet_queue
        while not response and self._connection is not None and queue.pending >= queue.max_in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
        await self._until_over(characteristic.obj.write_value(bytes(data), with_response=response))

    async def write_gatt_descriptor(self, descriptor: Any, data: Any) -> None:
        await self._until_over(descriptor.obj.write_value(bytes(data), with_response=True))

    async def start_notify(self, characteristic: Any, callback: Any, **_: Any) -> None:
        await self._maybe_hang("notify")

        def notified(value: bytes) -> None:
            callback(bytearray(value))

        self._subscribed[characteristic.handle] = notified
        await self._until_over(characteristic.obj.subscribe(notified))

    async def stop_notify(self, characteristic: Any) -> None:
        await self._until_over(characteristic.obj.unsubscribe(self._subscribed.pop(characteristic.handle)))


def backends(device: Device, mtu: int = 517) -> tuple[type[_Scanner], type[_Client]]:
    """Classes for `BleakScanner(backend=...)` and `BleakClient(backend=...)`, bound to a device."""
    return (
        type("BumbleScanner", (_Scanner,), {"device": device}),
        type("BumbleClient", (_Client,), {"device": device, "mtu": mtu, "hang": set()}),
    )
