"""The system's Bluetooth: bleak as the central everywhere, BlueZ's D-Bus as the peripheral on Linux."""

from __future__ import annotations

import sys

from transports.ble.bleak_central import BleakCentral
from transports.ble.radio import Radio

REORDER_MS = 1_000
"""BlueZ 5.55 to 5.71 spread values over several bearers (EATT): 19 places out of order were measured."""


async def open_system_radio(adapter: str | None) -> Radio:
    """The adapter itself is looked for when the radio is used."""
    peripheral = None
    if sys.platform == "linux":
        from transports.ble.bluez_peripheral import BluezPeripheral

        peripheral = BluezPeripheral(adapter)
    return Radio(
        central=BleakCentral(adapter=adapter),
        peripheral=peripheral,
        name=adapter or "the system's Bluetooth",
        reorder_ms=REORDER_MS,
        tags=peripheral is not None,
        bit_rate=2_000_000,
    )
