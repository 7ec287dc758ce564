"""The system's Bluetooth: the central role over bleak, on every platform that it knows."""

from __future__ import annotations

from transports.ble.bleak_central import BleakCentral
from transports.ble.radio import Radio


async def open_system_radio(adapter: str | None) -> Radio:
    """Raises: RadioDown."""
    return Radio(
        central=BleakCentral(adapter=adapter),
        peripheral=None,
        name=adapter or "the system's Bluetooth",
        reorder_ms=1_000,
        bit_rate=2_000_000,
    )
