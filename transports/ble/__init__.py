"""The Bluetooth LE transport: GATT carries datagrams between whoever is in earshot. `docs/ble.md`."""

from transports.ble.transport import BleParameters, BleTransport

__all__ = ["BleParameters", "BleTransport"]
