"""The peripheral role on Linux: GATT server and advertisement on BlueZ's D-Bus interface.

Facts of BlueZ that shape this file (5.66 unless said otherwise):

* A notification goes to every central that subscribed, so each value of TX begins with the tag of the central it is
  meant for (`Ability.TAGS`).
* `WriteValue` names the writer and its ATT MTU; a central that connects and does nothing is not seen here at all, and
  is no business of ours: it may be somebody's keyboard.
* A 128-bit UUID with service data of 8 octets does not fit its advertisement; with 6 octets of manufacturer data it
  does.
* The end of a connection is told by `Device1.Connected`, that of the daemon by the bus.

Source: org.bluez.GattManager1, org.bluez.LEAdvertisingManager1 and org.bluez.Device1 in BlueZ's `doc/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Annotated, Any

from dbus_fast import DBusError, Message, MessageType, PropertyAccess, Variant
from dbus_fast.annotations import DBusBool, DBusBytes, DBusDict, DBusObjectPath, DBusSignature, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from transports.ble.bluez_bus import (
    BLUEZ,
    DBUS,
    DEVICE,
    OBJECT_MANAGER,
    PROPERTIES,
    BluezBus,
    Interfaces,
    adapter_path,
    value_of,
)
from transports.ble.radio import PeripheralUser, RadioDown, Refused
from transports.ble.uuids import ATT_MTU_MIN, COMPANY_ID, CTL, INFO, RX, SERVICE, TX

log = logging.getLogger(__name__)

_ROOT = "/net/p2pserver"
_SERVICE_PATH = f"{_ROOT}/service"
_ASK_EVERY = 8
"""After so many notifications the bus is asked whether it has read them: to dbus-fast a full socket is the end of the
connection."""

_Nothing = Annotated[None, DBusSignature("")]
_Texts = Annotated[list[str], DBusSignature("as")]
_ManufacturerData = Annotated[dict[int, Variant], DBusSignature("a{qv}")]


class BluezPeripheral:
    """Implements `Peripheral`."""

    def __init__(self, adapter: str) -> None:
        """`adapter` is BlueZ's name of it, such as hci0."""
        self.note: str | None = None
        self.adapter = adapter
        self._adapter_path = adapter_path(adapter)
        self._bus: BluezBus | None = None
        self._user: PeripheralUser | None = None
        self._down: Callable[[str], None] | None = None
        self._channels: dict[str, BluezChannel] = {}
        self._tx: _Characteristic | None = None
        self._advertisements = 0
        self._advertised: str | None = None

    async def serve(self, user: PeripheralUser, down: Callable[[str], None]) -> None:
        self._user, self._down = user, down
        self._bus = bus = await BluezBus.open()
        bus.bus.add_message_handler(self._on_message)
        for rule in (
            f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',member='PropertiesChanged'",
            f"type='signal',sender='{BLUEZ}',interface='{OBJECT_MANAGER}'",
            f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{BLUEZ}'",
        ):
            await bus.ask_bus("AddMatch", rule)
        await self._end_stale_connections(bus, await bus.objects())
        self._export()
        nothing: dict[str, Variant] = {}
        await bus.call(
            self._adapter_path, "org.bluez.GattManager1", "RegisterApplication", _ROOT, nothing, signature="oa{sv}"
        )

    async def advertise(self, short_id: bytes | None) -> None:
        if self._advertised is not None:
            path, self._advertised = self._advertised, None
            with contextlib.suppress(RadioDown):  # it is not there, which is what was wanted
                await self._advertising("UnregisterAdvertisement", path)
            self._exported().bus.unexport(path)
        self.note = None
        if short_id is None:
            return
        try:
            await self._register_advertisement({COMPANY_ID: Variant("ay", short_id)})
        except RadioDown as with_id:
            log.info("the short id cannot be advertised", extra={"reason": str(with_id)})
            try:
                await self._register_advertisement({})
            except RadioDown as without:
                # it may be that this adapter cannot advertise while it is connected: it dials, and is asked again later
                self.note = f"this node cannot be found by others now, only find them: {without}"

    async def _register_advertisement(self, data: dict[int, Variant]) -> None:
        self._advertisements += 1
        path = f"{_ROOT}/advertisement{self._advertisements}"
        self._exported().bus.export(path, _Advertisement(data))
        try:
            await self._advertising("RegisterAdvertisement", path, {})
        except RadioDown:
            self._exported().bus.unexport(path)
            raise
        self._advertised = path

    async def _advertising(self, member: str, *body: Any) -> None:
        signature = "oa{sv}" if len(body) > 1 else "o"
        manager = "org.bluez.LEAdvertisingManager1"
        await self._exported().call(self._adapter_path, manager, member, *body, signature=signature)

    async def close(self) -> None:
        self._user = self._down = None
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    # BlueZ

    def _exported(self) -> BluezBus:
        if self._bus is None:
            raise RadioDown("the connection to BlueZ is closed")
        return self._bus

    async def _end_stale_connections(self, bus: BluezBus, objects: dict[str, Interfaces]) -> None:
        """Of a run of ours that crashed: BlueZ keeps them, and who is connected is not found by anybody.

        A bluetoothd that was killed leaves them in the kernel, and the next one may not know yet what they are for.
        """
        stale = []
        for path, item in objects.items():
            device = item.get(DEVICE, {})
            uuids = value_of(device, "UUIDs", [])
            ours = SERVICE in uuids or not (uuids or value_of(device, "Paired", False))
            if path.startswith(self._adapter_path + "/") and ours and value_of(device, "Connected", False):
                stale.append(path)
        if stale:
            log.info("ending connections of an earlier run", extra={"devices": stale})
            await asyncio.gather(*map(bus.disconnect_device, stale))

    def _export(self) -> None:
        bus = self._exported().bus
        self._tx = _Characteristic(self, TX, ["notify"])
        bus.export(_SERVICE_PATH, _Service())
        for number, characteristic in enumerate(
            (
                _Characteristic(self, INFO, ["read"]),
                _Characteristic(self, CTL, ["write"]),
                _Characteristic(self, RX, ["write-without-response"]),
                self._tx,
            )
        ):
            bus.export(f"{_SERVICE_PATH}/characteristic{number}", characteristic)

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        match message.member, message.body:
            case "PropertiesChanged", ["org.bluez.Device1", changed, *_] if not value_of(changed, "Connected", True):
                self._hung_up(str(message.path))
            case "PropertiesChanged", ["org.bluez.Adapter1", changed, *_] if message.path == self._adapter_path:
                if not value_of(changed, "Powered", True):
                    self._tell_down(f"the Bluetooth adapter {self.adapter} was switched off")
            case "InterfacesRemoved", [path, interfaces]:
                if path == self._adapter_path and "org.bluez.Adapter1" in interfaces:
                    self._tell_down(f"the Bluetooth adapter {self.adapter} is gone")
                elif "org.bluez.Device1" in interfaces:
                    self._hung_up(path)
            case "NameOwnerChanged", ["org.bluez", _, new] if not new:
                self._tell_down("the Bluetooth service (bluetoothd) has ended")

    def _tell_down(self, reason: str) -> None:
        for path in list(self._channels):
            self._hung_up(path, reason)
        if self._down is not None:
            self._down(reason)

    def _hung_up(self, path: str, reason: str = "out of range, or closed by the other side") -> None:
        channel = self._channels.pop(path, None)
        if channel is not None:
            channel.over = True
            if self._user is not None:
                self._user.hung_up(channel, reason)

    # what centrals do

    def _channel(self, options: dict[str, Variant]) -> BluezChannel:
        path = str(value_of(options, "device", ""))
        channel = self._channels.get(path)
        if channel is None:
            channel = self._channels[path] = BluezChannel(self, path)
            if self._user is not None:
                self._user.dialed(channel)
        channel.att_mtu = int(value_of(options, "mtu", channel.att_mtu))
        return channel

    def read(self, options: dict[str, Variant]) -> bytes:
        self._channel(options)
        if value_of(options, "offset", 0):
            raise DBusError("org.bluez.Error.InvalidOffset", "it is read at once")
        return self._user.info() if self._user is not None else b""

    def written(self, uuid: str, value: bytes, options: dict[str, Variant]) -> None:
        channel = self._channel(options)
        if value_of(options, "offset", 0):
            raise DBusError("org.bluez.Error.InvalidOffset", "it is written at once")
        if self._user is None:
            raise DBusError("org.bluez.Error.Failed", "closed")
        if uuid == RX:
            self._user.data(channel, value)
            return
        try:
            self._user.control(channel, value)
        except Refused as refused:
            raise DBusError("org.bluez.Error.NotPermitted", str(refused)) from None

    async def notify(self, value: bytes) -> None:
        if self._tx is None or self._bus is None or not self._bus.bus.connected:
            raise RadioDown("the connection to BlueZ is closed")
        self._tx.notify(value)
        if self._tx.notified % _ASK_EVERY == 0:
            await self._bus.ask_bus("GetId")

    async def disconnect(self, path: str) -> None:
        if self._bus is not None:
            await self._bus.disconnect_device(path)


class BluezChannel:
    """A central that uses the service."""

    def __init__(self, peripheral: BluezPeripheral, path: str) -> None:
        self.address = path.rpartition("dev_")[2].replace("_", ":")
        self.att_mtu = ATT_MTU_MIN
        self.over = False
        self._peripheral = peripheral
        self._path = path

    async def write(self, datagram: bytes) -> None:
        if self.over:
            raise RadioDown("the connection is over")
        await self._peripheral.notify(datagram)

    async def disconnect(self) -> None:
        if not self.over:
            await self._peripheral.disconnect(self._path)


class _Service(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.bluez.GattService1")

    @dbus_property(access=PropertyAccess.READ, name="UUID")
    def uuid(self) -> DBusStr:
        return SERVICE

    @dbus_property(access=PropertyAccess.READ, name="Primary")
    def primary(self) -> DBusBool:
        return True


class _Characteristic(ServiceInterface):
    def __init__(self, peripheral: BluezPeripheral, uuid: str, flags: list[str]) -> None:
        super().__init__("org.bluez.GattCharacteristic1")
        self.notified = 0
        self._peripheral = peripheral
        self._uuid = uuid
        self._flags = flags
        self._value = b""

    def notify(self, value: bytes) -> None:
        self.notified += 1
        self._value = value
        self.emit_properties_changed({"Value": value})

    @dbus_property(access=PropertyAccess.READ, name="UUID")
    def uuid(self) -> DBusStr:
        return self._uuid

    @dbus_property(access=PropertyAccess.READ, name="Service")
    def service(self) -> DBusObjectPath:
        return _SERVICE_PATH

    @dbus_property(access=PropertyAccess.READ, name="Flags")
    def flags(self) -> _Texts:
        return self._flags

    @dbus_property(access=PropertyAccess.READ, name="Value")
    def value(self) -> DBusBytes:
        return self._value

    @dbus_method("ReadValue")
    def readvalue_of(self, options: DBusDict) -> DBusBytes:
        return self._peripheral.read(options)

    @dbus_method("WriteValue")
    def writevalue_of(self, value: DBusBytes, options: DBusDict) -> _Nothing:
        self._peripheral.written(self._uuid, bytes(value), options)

    @dbus_method("StartNotify")
    def start_notify(self) -> _Nothing:
        return

    @dbus_method("StopNotify")
    def stop_notify(self) -> _Nothing:
        return


class _Advertisement(ServiceInterface):
    def __init__(self, manufacturer_data: dict[int, Variant]) -> None:
        super().__init__("org.bluez.LEAdvertisement1")
        self._manufacturer_data = manufacturer_data

    @dbus_property(access=PropertyAccess.READ, name="Type")
    def type(self) -> DBusStr:
        return "peripheral"

    @dbus_property(access=PropertyAccess.READ, name="ServiceUUIDs")
    def service_uuids(self) -> _Texts:
        return [SERVICE]

    @dbus_property(access=PropertyAccess.READ, name="ManufacturerData")
    def manufacturer_data(self) -> _ManufacturerData:
        return self._manufacturer_data

    @dbus_method("Release")
    def release(self) -> _Nothing:
        return
