"""A connection to BlueZ over the system D-Bus, and what BlueZ and bleak remember of others that must be forgotten.

Two memories outlive what they are about:

* bleak keeps one picture of all of BlueZ's objects and hears of changes only. A bluetoothd that is killed says nothing:
  its devices stay in the picture, connected and with services whose objects are gone.
* BlueZ keeps the services of a device that it once connected to, also over its own restart. Handles that have changed
  since make every dial fail, until the device is removed.

Source: org.bluez.Adapter1 and org.bluez.Device1 in BlueZ's `doc/`; the D-Bus specification, "Message Bus Messages".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Self
from weakref import WeakKeyDictionary

from bleak.backends.bluezdbus.manager import BlueZManager, get_global_bluez_manager
from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from transports.ble.radio import RadioDown

log = logging.getLogger(__name__)

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"

Interfaces = dict[str, dict[str, Variant]]
"""Of one object: properties by interface."""

_CALL_S = 8.0
_ENDING_LOOKS, _ENDING_LOOK_S = 8, 0.5
"""BlueZ takes 2 to 3 s to end a connection; 5.66 crashed when one was dialed over that was being ended."""
_NO_DAEMON = ("ServiceUnknown", "NameHasNoOwner", "Spawn.ChildExited", "UnknownObject")

_seen_owner: WeakKeyDictionary[BlueZManager, str] = WeakKeyDictionary()
"""The bus name of the bluetoothd that bleak's picture is of."""


class BluezBus:
    """A connection to the system D-Bus."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus

    @classmethod
    async def open(cls) -> Self:
        """Raises: RadioDown."""
        bus = MessageBus(bus_type=BusType.SYSTEM)
        try:
            await bus.connect()
        except (OSError, ValueError, DBusError, EOFError) as error:
            bus.disconnect()
            raise RadioDown(
                f"there is no system D-Bus, and so no BlueZ ({error}): `p2pserver doctor` says what to change"
            ) from None
        return cls(bus)

    def close(self) -> None:
        """BlueZ takes back what was registered by who is gone."""
        self.bus.disconnect()

    async def call(
        self, path: str, interface: str, member: str, *body: Any, signature: str = "s", destination: str = BLUEZ
    ) -> Any:
        """The first value of the answer. Raises: RadioDown."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature if body else "",
            body=list(body),
        )
        try:
            async with asyncio.timeout(_CALL_S):
                reply = await self.bus.call(message)
        except TimeoutError:
            raise RadioDown("BlueZ does not answer (systemctl restart bluetooth)") from None
        except (OSError, EOFError, DBusError) as error:
            raise RadioDown(f"the connection to BlueZ is lost ({error})") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            name = "" if reply is None else str(reply.error_name)
            said = "" if reply is None or not reply.body else str(reply.body[0])
            if name.endswith(_NO_DAEMON):
                raise RadioDown("the Bluetooth service (bluetoothd) does not run (systemctl start bluetooth)")
            raise RadioDown(f"BlueZ refuses {member}: {said or name}")
        return reply.body[0] if reply.body else None

    async def ask_bus(self, member: str, *body: str) -> Any:
        """Of the bus itself. Raises: RadioDown.

        Of all that a bus answers, the usual policy of the system's lets through this interface only: no Ping.
        """
        return await self.call(DBUS_PATH, DBUS, member, *body, signature="s" * len(body), destination=DBUS)

    async def objects(self) -> dict[str, Interfaces]:
        """Raises: RadioDown."""
        found: dict[str, Interfaces] = await self.call("/", OBJECT_MANAGER, "GetManagedObjects")
        return found

    async def disconnect_device(self, path: str) -> None:
        """Returns when it is disconnected, 2 to 3 s later, or cannot be."""
        with contextlib.suppress(RadioDown):
            await self.call(path, DEVICE, "Disconnect")


def value_of(properties: dict[str, Variant], name: str, default: Any) -> Any:
    found = properties.get(name)
    return default if found is None else found.value


def adapter_path(adapter: str) -> str:
    return f"/org/bluez/{adapter}"


def choose_adapter(objects: dict[str, Interfaces], wanted: str | None) -> str:
    """The wanted one, or the first that is switched on. Raises: RadioDown, when there is none or it is off."""
    adapters = {path.rpartition("/")[2]: item[ADAPTER] for path, item in objects.items() if ADAPTER in item}
    known = ", ".join(sorted(adapters))
    if not adapters:
        raise RadioDown("there is no Bluetooth adapter (plug one in; lsusb and dmesg tell of it)")
    if wanted is not None and wanted not in adapters:
        raise RadioDown(f"there is no Bluetooth adapter {wanted}; there is {known}")
    on = sorted(name for name, properties in adapters.items() if value_of(properties, "Powered", False))
    if wanted is None and on:
        return on[0]
    if wanted is None or wanted not in on:
        raise RadioDown(f"the Bluetooth adapter {wanted or known} is switched off (bluetoothctl power on)")
    return wanted


async def forget_device(path: str) -> None:
    """Makes BlueZ find out anew what a device has: called when a dial failed.

    One that is still connected when ours must have ended (it may have dialed us meanwhile), or that somebody paired, is
    left alone.
    """
    with contextlib.suppress(RadioDown):
        bus = await BluezBus.open()
        try:
            for _ in range(_ENDING_LOOKS):
                device = await bus.call(path, PROPERTIES, "GetAll", DEVICE)
                if not value_of(device, "Connected", False):
                    break
                await asyncio.sleep(_ENDING_LOOK_S)
            else:
                return
            if value_of(device, "Paired", False):
                return
            await bus.call(path.rpartition("/")[0], ADAPTER, "RemoveDevice", path, signature="o")
            log.debug("a device was removed after a failed dial", extra={"device": path})
        finally:
            bus.close()


async def forget_former_daemon(bus: BluezBus) -> None:
    """Makes bleak look at BlueZ anew if it is another bluetoothd than the one that it knows. Raises: RadioDown."""
    owner = str(await bus.ask_bus("GetNameOwner", BLUEZ))
    try:
        manager = await get_global_bluez_manager()
        if _seen_owner.setdefault(manager, owner) != owner:
            _seen_owner[manager] = owner
            former = manager._bus  # noqa: SLF001  bleak offers no other way to begin anew
            if former is not None:
                former.disconnect()
            await get_global_bluez_manager()
    except Exception as error:  # noqa: BLE001  bleak lets through whatever the system's stack raises
        raise RadioDown(f"BlueZ cannot be used: {str(error) or type(error).__name__}") from None
