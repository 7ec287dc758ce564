"""The GATT service: its UUIDs (random, of this project alone) and what an advertisement has room for.

| characteristic | properties            | carries                                                |
|----------------|-----------------------|--------------------------------------------------------|
| INFO           | read                  | version, abilities, short id, largest datagram         |
| CTL            | write                 | HELLO, and a new short id of the central               |
| RX             | write without response| datagrams of the central                               |
| TX             | notify                | datagrams of the peripheral                            |

CTL and RX are two: BlueZ answers a write request before the application has seen it when the characteristic takes
writes without response as well. None asks for encryption, which would make phones show a pairing dialog; whoever is
there is authenticated above.
"""

from __future__ import annotations

from typing import Final

SERVICE: Final = "b3f1a5c0-7d24-4e0b-9a36-52c8d90e6f41"
INFO: Final = "b3f1a5c1-7d24-4e0b-9a36-52c8d90e6f41"
CTL: Final = "b3f1a5c2-7d24-4e0b-9a36-52c8d90e6f41"
RX: Final = "b3f1a5c3-7d24-4e0b-9a36-52c8d90e6f41"
TX: Final = "b3f1a5c4-7d24-4e0b-9a36-52c8d90e6f41"

COMPANY_ID: Final = 0xFFFF
"""Of the manufacturer data that holds the short id: the number that the Bluetooth SIG leaves to nobody."""
SHORT_ID_OCTETS: Final = 6
"""Flags 3, a 128-bit UUID 18, and manufacturer data with 6 octets 10: 31, all that a legacy advertisement holds."""

ATT_MTU_MIN: Final = 23
ATT_MTU_MAX: Final = 517
DATAGRAM_OCTETS_MIN: Final = 20
DATAGRAM_OCTETS_MAX: Final = 495
"""With 7 octets of L2CAP and ATT it fills two packets of the link layer exactly; BlueZ up to 5.68 refuses over 510."""


def datagram_octets(att_mtu: int) -> int:
    """The largest datagram at an ATT MTU: three octets of it are the operation and the handle."""
    return min(max(att_mtu, ATT_MTU_MIN) - 3, DATAGRAM_OCTETS_MAX)


def tagged_datagram_octets(att_mtu: int) -> int:
    """The same where each notification begins with a tag."""
    return datagram_octets(att_mtu) - 1
