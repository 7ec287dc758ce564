"""bluezoo without manufacturer data: version 1.0.2 declares that property `a{sv}`, which BlueZ has as `a{qv}`.

So nobody's short id is known before it is dialed, as with a Mac.
"""

from __future__ import annotations

from typing import Any

from bluezoo.bluezoo import main
from bluezoo.device import Device


def _forget(_device: Any, _value: Any) -> None:
    return


Device.manufacturer_data = property(lambda _: {}, _forget)

if __name__ == "__main__":
    main()
