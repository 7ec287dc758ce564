"""What this machine's Bluetooth can do, and what to change: facts first, then a judgment that needs no machine."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from transports.finding import Finding, Weight

ADDRESSED_NOTIFICATIONS: Final = (5, 69)
"""From here on BlueZ notifies one central at a time and takes values over 510 octets."""
ONE_CHANNEL_DEFAULT: Final = (5, 72)
"""From here on BlueZ opens one ATT channel by default, and values keep their order."""

_AF_BLUETOOTH: Final = 31
_DBUS_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """One adapter as BlueZ has it."""

    name: str
    powered: bool
    roles: tuple[str, ...] = ()
    advertising_instances: int | None = None
    """None: no advertising manager, so nobody can find this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BluetoothFacts:
    """What was seen; the defaults are a machine on which all is well."""

    platform: str = "linux"
    termux: bool = False
    bleak: bool = True
    bumble: bool = True
    kernel_bluetooth: bool = True
    container: bool = False
    kernel_adapters: tuple[str, ...] = ("hci0",)
    blocked: str | None = None
    """"soft" or "hard", by rfkill."""
    bus: str | None = None
    """Why D-Bus cannot be reached; None: it can."""
    bluez: str | None = None
    """Why BlueZ does not answer: "absent", "denied", or its words; None: it answers."""
    adapters: tuple[AdapterFacts, ...] = ()
    version: tuple[int, int] | None = None
    gatt_channels: int | None = None
    """From BlueZ's main.conf; None: its default."""


def judge(facts: BluetoothFacts) -> tuple[Finding, ...]:
    """Findings, in the order in which they are best mended."""
    own = Finding(
        Weight.GOOD if facts.bumble else Weight.REMARK,
        "a controller of its own (hci=usb:0) " + ("can be used" if facts.bumble else "needs a package"),
        "" if facts.bumble else "pip install 'p2pserver[bumble]'",
    )
    if facts.termux:
        return (
            Finding(
                Weight.BAD,
                "Termux gives programs no Bluetooth LE",
                "use --transport lan (Wi-Fi or a phone's hotspot) on this device",
            ),
        )
    if not facts.bleak:
        return (Finding(Weight.BAD, "the package for Bluetooth is not installed", "pip install 'p2pserver[ble]'"), own)
    if facts.platform in ("darwin", "win32"):
        system = "macOS" if facts.platform == "darwin" else "Windows"
        return (
            Finding(
                Weight.REMARK,
                f"on {system} this node can dial others and cannot be dialed: two such machines do not meet",
                "have one Linux machine (a Raspberry Pi will do) in reach",
            ),
            own,
        )
    return (*_judge_linux(facts), own)


def _judge_linux(facts: BluetoothFacts) -> list[Finding]:
    if not facts.kernel_bluetooth:
        where = "this container or kernel" if facts.container else "this kernel"
        remedy = (
            "run on the host, or with --net=host and /run/dbus mounted" if facts.container else "modprobe bluetooth"
        )
        return [Finding(Weight.BAD, f"{where} has no Bluetooth (AF_BLUETOOTH is unknown)", remedy)]
    found: list[Finding] = []
    if not facts.kernel_adapters:
        found.append(Finding(Weight.BAD, "there is no Bluetooth adapter", "plug one in; lsusb and dmesg tell of it"))
    if facts.blocked is not None:
        remedy = (
            "rfkill unblock bluetooth" if facts.blocked == "soft" else "use the switch or key for radio on the machine"
        )
        found.append(Finding(Weight.BAD, f"Bluetooth is blocked ({facts.blocked} block)", remedy))
    if facts.bus is not None:
        remedy = "mount /run/dbus into the container" if facts.container else "systemctl start dbus"
        return [*found, Finding(Weight.BAD, f"the system D-Bus cannot be reached: {facts.bus}", remedy)]
    if facts.bluez is not None:
        return [*found, _judge_silence(facts.bluez)]
    if not facts.adapters and facts.kernel_adapters:
        found.append(Finding(Weight.BAD, "bluetoothd knows no adapter", "systemctl restart bluetooth"))
    for adapter in facts.adapters:
        found += _judge_adapter(adapter)
    return [*found, *_judge_version(facts)]


def _judge_silence(reason: str) -> Finding:
    if reason == "absent":
        return Finding(
            Weight.BAD,
            "the Bluetooth service (bluetoothd) does not run",
            "apt install bluez; systemctl enable --now bluetooth",
        )
    if reason == "denied":
        return Finding(
            Weight.BAD,
            "this user may not use Bluetooth",
            "sudo usermod -aG bluetooth $USER, then log in again",
        )
    return Finding(
        Weight.BAD, f"BlueZ does not answer: {reason}", "systemctl restart bluetooth; journalctl -u bluetooth"
    )


def _judge_adapter(adapter: AdapterFacts) -> list[Finding]:
    if not adapter.powered:
        return [Finding(Weight.BAD, f"{adapter.name} is switched off", "bluetoothctl power on")]
    if adapter.advertising_instances is None:
        return [
            Finding(
                Weight.REMARK,
                f"{adapter.name} can dial others and cannot be found by them",
                "use an adapter with Bluetooth 4.1 or newer",
            )
        ]
    if adapter.advertising_instances == 0:
        return [
            Finding(Weight.REMARK, f"{adapter.name} has no advertisement free", "end the program that uses them all")
        ]
    if adapter.roles and "central-peripheral" not in adapter.roles:
        return [
            Finding(
                Weight.REMARK,
                f"{adapter.name} dials or is dialed, not both at once: links to several neighbors will be few",
                "use an adapter with Bluetooth 4.1 or newer",
            )
        ]
    return [Finding(Weight.GOOD, f"{adapter.name} is on, finds others and can be found")]


def _judge_version(facts: BluetoothFacts) -> list[Finding]:
    if facts.version is None:
        return []
    name = "BlueZ {}.{}".format(*facts.version)
    found = []
    if facts.version < ADDRESSED_NOTIFICATIONS:
        what = f"{name} tells every neighbor what is for one of them (nothing is lost, the radio is busier)"
        found.append(Finding(Weight.REMARK, what, "with many neighbors: BlueZ 5.69 or newer (Debian 13)"))
    channels = (
        facts.gatt_channels if facts.gatt_channels is not None else (1 if facts.version >= ONE_CHANNEL_DEFAULT else 3)
    )
    if channels > 1:
        what = f"{name} delivers out of order between Linux machines ([GATT] Channels is {channels}): slower, not wrong"
        found.append(
            Finding(
                Weight.REMARK,
                what,
                "Channels = 1 below [GATT] in /etc/bluetooth/main.conf, systemctl restart bluetooth",
            )
        )
    return found or [Finding(Weight.GOOD, f"{name} needs no change")]


# gathering


async def gather(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> BluetoothFacts:
    """Looks at this machine. Changes nothing and needs no rights."""
    platform = "linux" if sys.platform in ("linux", "android") else sys.platform
    termux = sys.platform == "android" or "TERMUX_VERSION" in environment
    packages = {"bleak": find_spec("bleak") is not None, "bumble": find_spec("bumble") is not None}
    if platform != "linux" or termux:
        return BluetoothFacts(platform=platform, termux=termux, bleak=packages["bleak"], bumble=packages["bumble"])
    bus, bluez, adapters = await _ask_bluez()
    return BluetoothFacts(
        bleak=packages["bleak"],
        bumble=packages["bumble"],
        kernel_bluetooth=_kernel_has_bluetooth(),
        container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists() or "container" in environment,
        kernel_adapters=tuple(
            sorted(path.name for path in _listed(root / "sys/class/bluetooth") if ":" not in path.name)
        ),
        blocked=_blocked(root / "sys/class/rfkill"),
        bus=bus,
        bluez=bluez,
        adapters=adapters,
        version=_version(),
        gatt_channels=_gatt_channels(root / "etc/bluetooth/main.conf"),
    )


def _listed(folder: Path) -> Sequence[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()


def _kernel_has_bluetooth() -> bool:
    try:
        socket.socket(_AF_BLUETOOTH, socket.SOCK_RAW, 1).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def _blocked(folder: Path) -> str | None:
    found = set()
    for switch in _listed(folder):
        try:
            if (switch / "type").read_text().strip() == "bluetooth":
                found |= {kind for kind in ("hard", "soft") if (switch / kind).read_text().strip() == "1"}
        except OSError:
            continue
    return min(found, default=None)


def _version() -> tuple[int, int] | None:
    for program in ("bluetoothctl", "/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd"):
        try:
            said = subprocess.run(  # noqa: S603  the programs are named here
                [program, "--version"], capture_output=True, text=True, timeout=5, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        if (found := re.search(r"(\d+)\.(\d+)", said)) is not None:
            return int(found[1]), int(found[2])
    return None


def _gatt_channels(file: Path) -> int | None:
    try:
        text = file.read_text()
    except OSError:
        return None
    section = re.search(r"^\[GATT\](.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.search(r"^\s*Channels\s*=\s*(\d+)", section[1], re.MULTILINE) if section is not None else None
    return int(found[1]) if found is not None else None


async def _ask_bluez() -> tuple[str | None, str | None, tuple[AdapterFacts, ...]]:
    """Why the bus is out of reach, why BlueZ is, and the adapters."""
    import asyncio

    try:
        from dbus_fast import BusType, DBusError, Message, MessageType
        from dbus_fast.aio import MessageBus
    except ImportError:
        return "the package dbus-fast is not installed", None, ()
    try:
        async with asyncio.timeout(_DBUS_S):
            bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, ValueError, EOFError, DBusError) as error:
        return str(error) or type(error).__name__, None, ()
    try:
        async with asyncio.timeout(_DBUS_S):
            reply = await bus.call(
                Message(
                    destination="org.bluez",
                    path="/",
                    interface="org.freedesktop.DBus.ObjectManager",
                    member="GetManagedObjects",
                )
            )
    except (TimeoutError, OSError, EOFError, DBusError) as error:
        return None, str(error) or type(error).__name__, ()
    finally:
        bus.disconnect()
    if reply is None or reply.message_type is MessageType.ERROR:
        name = "" if reply is None else str(reply.error_name)
        if name.endswith(("ServiceUnknown", "NameHasNoOwner", "Spawn.ChildExited")):
            return None, "absent", ()
        return None, "denied" if name.endswith("AccessDenied") else name, ()
    adapters = []
    for path, interfaces in sorted(reply.body[0].items()):
        adapter, manager = interfaces.get("org.bluez.Adapter1"), interfaces.get("org.bluez.LEAdvertisingManager1")
        if adapter is None:
            continue
        free = manager.get("SupportedInstances") if manager is not None else None
        adapters.append(
            AdapterFacts(
                name=path.rpartition("/")[2],
                powered=bool(adapter["Powered"].value) if "Powered" in adapter else False,
                roles=tuple(adapter["Roles"].value) if "Roles" in adapter else (),
                advertising_instances=free.value if free is not None else (None if manager is None else 1),
            )
        )
    return None, None, tuple(adapters)
