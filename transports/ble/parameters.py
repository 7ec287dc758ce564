"""What follows `ble:` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from transports.ble.uuids import ATT_MTU_MAX, ATT_MTU_MIN
from transports.contract import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class BleParameters:
    """What follows `ble:` on the command line.

    hci      a Bluetooth controller of its own, as Bumble names it; None: the system's Bluetooth
    adapter  BlueZ's name of the adapter to use
    mtu      the largest ATT MTU to agree to; with `hci` only, since systems decide for themselves
    """

    hci: str | None = None
    adapter: str | None = None
    mtu: int = ATT_MTU_MAX

    @classmethod
    def parse(cls, text: str) -> Self:
        """`hci=usb:0,mtu=247` or `adapter=hci1`. Raises: ValueError with one clear line."""
        given = Parameters.parse(text, once=frozenset({"hci", "adapter", "mtu"}))
        hci, adapter, mtu_text = given.one("hci"), given.one("adapter"), given.one("mtu")
        if hci is not None and adapter is not None:
            raise ValueError("hci is a controller of its own, adapter one of the system: give one of them")
        if mtu_text is not None and hci is None:
            raise ValueError("mtu is for hci only: the system's Bluetooth decides it by itself")
        mtu = int(mtu_text) if mtu_text is not None and mtu_text.isdecimal() else ATT_MTU_MAX
        if not ATT_MTU_MIN <= mtu <= ATT_MTU_MAX or (mtu_text is not None and not mtu_text.isdecimal()):
            raise ValueError(f"mtu is a number from {ATT_MTU_MIN} to {ATT_MTU_MAX}, not {mtu_text!r}")
        return cls(hci=hci, adapter=adapter, mtu=mtu)
