"""The LAN transport: multicast DNS finds neighbors, TCP carries datagrams."""

from transports.lan.transport import LanParameters, LanTransport

__all__ = ["LanParameters", "LanTransport"]
