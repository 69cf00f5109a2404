"""A GPT disk that starts under BIOS and under UEFI, put together from files: no loop device, no mount, no root.

    LBA 0          boot.img's code and the protective MBR
    1 MiB          BIOS boot partition (14): GRUB's core image
    2 MiB          EFI system partition (15): /EFI/BOOT/BOOTX64.EFI
    66 MiB to end  root, ext4 (1): last, so that it can grow into a larger disk

What `grub-install` would do to a device is four numbers in two sectors; they are in GRUB's own headers
(include/grub/i386/pc/boot.h and kernel.h): where the first sector finds the core, and where the core's first sector
finds the rest of it.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polyvisor.host.images.threads import in_thread
from polyvisor.host.run import run
from polyvisor.model.faults import Internal
from polyvisor.model.units import KIB, MIB

SECTOR = 512
_CORE_AT = MIB
_CORE_SIZE = MIB
_ESP_AT = 2 * MIB
_ESP_SIZE = 64 * MIB
ROOT_AT = _ESP_AT + _ESP_SIZE
_TAIL = MIB  # the second copy of the partition table

_CODE = 440  # boot code ends where the disk signature and the partition table begin
_AT_CORE_LBA = 0x5C
_AT_DRIVE = 0x64
_AT_DRIVE_CHECK = 0x66
_AT_BLOCKLIST = SECTOR - 12

_COMMON = "part_gpt ext2 search search_fs_uuid normal configfile linux echo test serial gzio minicmd ls cat"
_MODULES = {"i386-pc": f"biosdisk {_COMMON}", "x86_64-efi": f"fat efi_gop {_COMMON}"}


@dataclass(frozen=True, slots=True)
class Plan:
    """`seed` makes every identifier of the disk, so that the same recipe gives the same ones."""

    size: int
    seed: str

    @property
    def root_size(self) -> int:
        return self.size - ROOT_AT - _TAIL

    def uuid(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"polyvisor:{self.seed}:{name}"))


def boot_sector(boot_img: bytes, core_lba: int) -> bytes:
    """The first 440 bytes of the disk: boot.img, told where the core lies."""
    code = bytearray(boot_img[:_CODE])
    struct.pack_into("<Q", code, _AT_CORE_LBA, core_lba)
    code[_AT_DRIVE] = 0xFF  # boot from the drive the firmware names
    code[_AT_DRIVE_CHECK : _AT_DRIVE_CHECK + 2] = b"\x90\x90"  # a hard disk: no floppy probe
    return bytes(code)


def core_image(core: bytes, core_lba: int) -> bytes:
    """core.img, its first sector told where the rest lies. grub-mkimage has filled in length and segment."""
    if len(core) > _CORE_SIZE:
        raise Internal(private=f"GRUB's core of {len(core)} bytes does not fit its partition")
    patched = bytearray(core)
    struct.pack_into("<Q", patched, _AT_BLOCKLIST, core_lba + 1)
    return bytes(patched)


def partition_script(plan: Plan) -> str:
    """For sfdisk."""

    def line(number: int, at: int, size: int, kind: str, name: str) -> str:
        place = f"start={at // SECTOR}, size={size // SECTOR}, type={kind}"
        return f'{number} : {place}, uuid={plan.uuid(name)}, name="{name}"'

    return "\n".join([
        "label: gpt",
        f"label-id: {plan.uuid('disk')}",
        "first-lba: 34",
        line(14, _CORE_AT, _CORE_SIZE, "21686148-6449-6E6F-744E-656564454649", "bios"),
        line(15, _ESP_AT, _ESP_SIZE, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "efi"),
        line(1, ROOT_AT, plan.root_size, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "root"),
    ]) + "\n"  # fmt: skip


async def assemble(plan: Plan, root_image: Path, work: Path, grub: Path = Path("/usr/lib/grub")) -> Path:
    """The raw disk with `root_image` (an ext4 of `plan.root_size` with a /boot/grub/grub.cfg) in it."""
    esp = await _esp(plan, work, grub)
    core = await _mkimage("i386-pc", plan, work, grub)
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(plan.size)
    await run(["sfdisk", "--quiet", str(disk)], stdin=partition_script(plan).encode(), timeout=60)
    await in_thread(_fill, disk, grub / "i386-pc/boot.img", core, {_ESP_AT: esp, ROOT_AT: root_image})
    return disk


def _fill(disk: Path, boot_img: Path, core: Path, parts: Mapping[int, Path]) -> None:
    lba = _CORE_AT // SECTOR
    with disk.open("r+b") as file:
        file.write(boot_sector(boot_img.read_bytes(), lba))
        file.seek(_CORE_AT)
        file.write(core_image(core.read_bytes(), lba))
        for at, part in parts.items():
            copy_sparse(part, file, at)


def copy_sparse(source: Path, out: BinaryIO, at: int) -> None:
    """`source` into `out`, leaving out what is all zeros."""
    chunk = 256 * KIB
    zeros = bytes(chunk)
    with source.open("rb") as file:
        while data := file.read(chunk):
            if data != zeros[: len(data)]:
                out.seek(at)
                out.write(data)
            at += len(data)


async def _mkimage(target: str, plan: Plan, work: Path, grub: Path) -> Path:
    early = work / "early.cfg"
    early.write_text(
        f"search.fs_uuid {plan.uuid('root-fs')} root\nset prefix=($root)/boot/grub\nnormal ($root)/boot/grub/grub.cfg\n"
    )
    out = work / f"{target}.img"
    argv: Sequence[str] = [
        "grub-mkimage", "-O", target, "-d", str(grub / target), "-c", str(early), "-p", "/boot/grub",
        "-o", str(out), *_MODULES[target].split(),
    ]  # fmt: skip
    await run(argv, timeout=60)
    return out


async def _esp(plan: Plan, work: Path, grub: Path) -> Path:
    loader = await _mkimage("x86_64-efi", plan, work, grub)
    esp = work / "esp.img"
    with esp.open("wb") as file:
        file.truncate(_ESP_SIZE)
    serial = plan.uuid("esp")[:8]
    await run(["mkfs.vfat", "-F", "32", "-i", serial, "-n", "EFI", str(esp)], timeout=60)
    await run(["mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT"], timeout=60)
    await run(["mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI"], timeout=60)
    return esp
