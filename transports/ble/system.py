"""The system's Bluetooth: bleak as the central everywhere, BlueZ's D-Bus as the peripheral on Linux."""

from __future__ import annotations

import sys

from transports.ble.bleak_central import BleakCentral
from transports.ble.radio import Radio

REORDER_MS = 1_000
"""BlueZ 5.55 to 5.71 spread values over several bearers (EATT): up to 34 places out of order were measured."""

BIT_RATE = 2_000_000


async def open_system_radio(adapter: str | None) -> Radio:
    """`adapter` is BlueZ's name of it, such as hci0; None: the first that is switched on. Raises: RadioDown."""
    if sys.platform != "linux":
        return Radio(
            central=BleakCentral(adapter=adapter), peripheral=None, name="the system's Bluetooth", bit_rate=BIT_RATE
        )
    from transports.ble.bluez_bus import BluezBus, choose_adapter, forget_device, forget_former_daemon
    from transports.ble.bluez_peripheral import BluezPeripheral

    bus = await BluezBus.open()
    try:
        adapter = choose_adapter(await bus.objects(), adapter)
        await forget_former_daemon(bus)
    finally:
        bus.close()
    return Radio(
        central=BleakCentral(adapter=adapter, forget=lambda device: forget_device(device.details["path"])),
        peripheral=BluezPeripheral(adapter),
        name=adapter,
        reorder_ms=REORDER_MS,
        tags=True,
        bit_rate=BIT_RATE,
    )
