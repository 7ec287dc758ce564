"""The Bluetooth LE transport: GATT carries datagrams between whoever is in earshot. `docs/ble.md`."""

from transports.ble.parameters import BleParameters
from transports.ble.transport import BleTransport

__all__ = ["BleParameters", "BleTransport"]
