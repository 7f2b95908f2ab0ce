"""A machine that QEMU computes, for ZFS: Debian's cloud kernel with a ZFS module that `zfs-kernel` builds once."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import ClassVar

from lab.guest import TREE, Guest
from lab.uml import zfs_kernel
from support.process import run

PROGRAM = "qemu-system-x86_64"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
_SCRATCH = "16G"  # what the guest can write besides its disks; sparse


class Qemu(Guest):
    """The guest; see `lab.guest.Guest`.

    Its processor is computed, hence some 15 times slower than ours; its disks are not. There is no udev. ZFS is there
    as if it had been installed, in the version of the kernel's module.
    """

    environment: ClassVar = {"DM_DISABLE_UDEV": "1"}  # LVM makes its own device nodes

    def boot(self) -> None:
        kernel = zfs_kernel("qemu")
        scratch = self.place / "scratch"
        run("truncate", f"--size={_SCRATCH}", scratch)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", scratch)
        memory = f"{self.memory >> 20}M"
        # Saves 15 %: what was translated for a program fits its next run best at the same addresses.
        quick = ["mitigations=off", "nokaslr", "norandmaps"]
        words = [f"LAB_TREE={TREE}", f"LAB_PLACE={self.place}", f"LAB_KERNEL={kernel}"]
        devices = [*self._share("host", Path("/"), "cache=always"), *self._share("place", self.place, "cache=none")]
        self._serve(
            *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max", "-smp", "1"),
            *("-m", memory, "-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
            *("-numa", "node,memdev=memory", *devices),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *(word for disk in (scratch, *self.disks) for word in _disk(disk)),
            *("-kernel", kernel / "vmlinuz", "-initrd", kernel / "initramfs"),
            *("-append", " ".join(["console=ttyS0", "quiet", "loglevel=3", "panic=-1", *quick, *words])),
        )

    def _share(self, tag: str, directory: Path, cache: str) -> tuple[str, ...]:
        """Start what gives ``directory`` to the guest, and return the machine's options for it.

        It ends when the machine does, which is the only one that ever connects.
        """
        path = self.place / f"{tag}.socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            self._serve(
                *(VIRTIOFSD, "--fd=0", "-o", f"source={directory}", "-o", "sandbox=chroot", "-o", cache),
                log=self.place / f"{tag}.log",
                stdin=listener.fileno(),
            )
        device = f"vhost-user-fs-pci,chardev={tag},tag={tag}"
        return "-chardev", f"socket,id={tag},path={path}", "-device", device

    def device(self, number: int) -> str:
        return f"/dev/vd{chr(ord('b') + number)}"


def _disk(file: Path) -> tuple[str, ...]:
    # The host's page cache outlives the guest: what the guest's disk has accepted is kept without waiting for ours.
    return "-drive", f"file={file},if=virtio,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap"
