"""A machine with Bluetooth, where this one has none: Debian's kernel in QEMU, on this machine's own files.

The kernel package of this Debian release is unpacked (not installed), an initramfs with busybox and the modules that
are needed is built, and QEMU boots it without KVM. The guest sees `/` of this machine over 9p, read-only under an
overlay in memory, so it has the same Python, checkout and bluetoothd; results come back through a second
share. Needs Debian 12 or newer, root or a writable APT list, and the packages in `PACKAGES`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("qemu-system-x86", "bluez", "dbus", "busybox-static", "kmod", "cpio")
PROGRAMS = ("qemu-system-x86_64", "bluetoothctl", "dbus-daemon", "busybox", "modprobe", "cpio")
MODULES = (
    "virtio_pci 9pnet_virtio 9p overlay bluetooth hci_vhci algif_hash algif_skcipher cmac ecb ecdh_generic virtio_rng"
)
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod $module || echo "no $module"; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /lower
/bin/busybox mount -t tmpfs -o size=512m tmpfs /upper
/bin/busybox mkdir -p /upper/files /upper/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new
for each in proc sys dev; do /bin/busybox mount -o move /$each /new/$each; done
/bin/busybox mkdir -p /new/run/guest
/bin/busybox mount -t tmpfs tmpfs /new/run
/bin/busybox mkdir -p /new/run/guest /new/run/dbus /new/run/lock
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out /new/run/guest
/bin/busybox ifconfig lo up 2>/dev/null
cd /new
/bin/busybox chroot /new /bin/sh /run/guest/script
/bin/busybox poweroff -f
"""


class GuestFailed(AssertionError):
    """The guest did not come to its end; with what its console said."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What was taken out of the package."""

    image: Path
    modules: Path
    version: str


def install_packages() -> None:
    """What is missing, with APT."""
    if all(shutil.which(program, path=os.environ["PATH"] + ":/sbin:/usr/sbin") for program in PROGRAMS):
        return
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], check=True)


def unpack_kernel(folder: Path) -> Kernel:
    """Downloads and unpacks the kernel of this release, if the folder does not have it yet."""
    folder.mkdir(parents=True, exist_ok=True)
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"linux-image-(\S+)", depends.partition("Depends:")[2])
    if found is None:
        raise GuestFailed(f"APT knows no kernel: {depends}")
    version = found[1]
    unpacked = folder / version
    if not unpacked.exists():
        subprocess.run(["apt-get", "download", f"linux-image-{version}"], cwd=folder, check=True, capture_output=True)
        package = next(folder.glob(f"linux-image-{version}_*.deb"))
        partial = folder / f"{version}.partial"
        subprocess.run(["dpkg", "-x", str(package), str(partial)], check=True)
        subprocess.run(["depmod", "-b", str(partial), version], check=True, env=_with_sbin())
        partial.rename(unpacked)
        package.unlink()
    return Kernel(unpacked / f"boot/vmlinuz-{version}", unpacked, version)


def build_initramfs(kernel: Kernel, folder: Path) -> Path:
    files = folder / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "lower", "upper", "new", "lib"):
        (files / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, files / "bin/busybox")
    order: list[str] = []
    for module in MODULES.split():
        wanted = subprocess.run(
            ["modprobe", "-d", str(kernel.modules), "-S", kernel.version, "--show-depends", module],
            check=True,
            capture_output=True,
            text=True,
            env=_with_sbin(),
        ).stdout
        order += [path for path in re.findall(r"^insmod (\S+)", wanted, re.MULTILINE) if path not in order]
    for path in order:
        shutil.copy(path, files / "lib" / Path(path).name)
    (files / "modules").write_text("\n".join(f"/lib/{Path(path).name}" for path in order))
    (files / "init").write_text(INIT)
    (files / "init").chmod(0o755)
    archive = folder / "initramfs.cpio"
    names = "\n".join(str(path.relative_to(files)) for path in sorted(files.rglob("*")))
    with archive.open("wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=out, cwd=files, check=True)
    return archive


def run_in_guest(program: Sequence[str], folder: Path, *, cache: Path, seconds: float) -> Any:
    """Runs `python PROGRAM RESULTS_FILE` in the guest, as root, in the checkout; what it wrote to the results file.

    Raises: GuestFailed.
    """
    install_packages()
    kernel = unpack_kernel(cache)
    initramfs = build_initramfs(kernel, folder)
    out = folder / "out"
    out.mkdir()
    words = " ".join([sys.executable, *program, "/run/guest/results.json"])
    (out / "script").write_text(
        f"cd {ROOT}\nexport HOME=/root PATH={os.environ['PATH']}:/sbin:/usr/sbin PYTHONDONTWRITEBYTECODE=1\n"
        f"{words} > /run/guest/log 2>&1\n"
    )
    shares = []
    for name, path, options in (("root", "/", ",readonly=on,multidevs=remap"), ("out", str(out), "")):
        shares += ["-fsdev", f"local,id={name},path={path},security_model=none{options}"]
        shares += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-m", "2048", "-smp", "2"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 panic=-1 quiet", "-serial", "stdio", "-device", "virtio-rng-pci", *shares),
    ]
    try:
        console = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
        said = console.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    log = (out / "log").read_text() if (out / "log").exists() else ""
    if not (out / "results.json").exists():
        raise GuestFailed(f"no results\n--- console\n{said.decode(errors='replace')[-6000:]}\n--- log\n{log[-6000:]}")
    results = json.loads((out / "results.json").read_text())
    results["log"] = log
    return results


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"}
