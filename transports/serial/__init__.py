"""The serial transport: a cable, a bus or a transparent radio modem behind a serial port. `docs/serial.md`."""

from transports.serial.parameters import SerialParameters
from transports.serial.transport import SerialTransport

__all__ = ["SerialParameters", "SerialTransport"]
