"""Debian's cloud kernel: fetched as a package, unpacked beside our data, never installed.

The package holds a compressed image; a micro machine enters the plain ELF inside it directly, which saves a fifth of
the boot.
"""

from __future__ import annotations

import asyncio
import lzma
import os
import re
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from polyvisor.host.run import run
from polyvisor.model.faults import Internal, Invalid, Unsupported

_PACKAGE = "linux-image-cloud-amd64"
_REAL = re.compile(r"^\s*Depends:\s*(linux-image-[0-9][\w.+~-]*-cloud-amd64)\s*$", re.MULTILINE)
_ELF = b"\x7fELF"
_LIMIT = 600.0


async def unpacked(root: Path) -> tuple[Path, Path]:
    """The kernel image and its modules' directory, fetched once. :raise Unsupported: apt does not know the package."""
    kept = root / "kernel"
    if not kept.exists():
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="making-", dir=root))
        try:
            await _fetch(folder)
            (folder / "tree").rename(kept)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    images, modules = list(kept.glob("boot/vmlinuz-*")), list(kept.glob("lib/modules/*"))
    if len(images) != 1 or len(modules) != 1:
        raise Internal(private=f"{kept} does not hold one kernel")
    return images[0], modules[0]


async def _fetch(folder: Path) -> None:
    said = (await run(["apt-cache", "depends", _PACKAGE], timeout=60, check=False)).out.decode()
    real = _REAL.search(said)
    if real is None:
        raise Unsupported(
            f"apt does not know {_PACKAGE}: run apt-get update, or set host.kernel and host.modules", private=said
        )
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    await run(["apt-get", *sandbox, "download", real[1]], timeout=_LIMIT, cwd=folder, online=True)
    (package,) = folder.glob("*.deb")
    await run(["dpkg-deb", "-x", str(package), str(folder / "tree")], timeout=_LIMIT)


async def extract(image: Path, out: Path) -> None:
    """The ELF in a bzImage, or the file itself when it is one. :raise Invalid: neither."""
    data = await asyncio.to_thread(image.read_bytes)
    if not data.startswith(_ELF):
        data = await _payload(data, out.with_suffix(".payload"))
    if not data.startswith(_ELF):
        raise Invalid(f"{image} holds no ELF kernel", field="host.kernel")
    await asyncio.to_thread(out.write_bytes, data)


async def _payload(data: bytes, part: Path) -> bytes:
    """The kernel's compressed part, at the offset that the boot protocol gives (header 2.08 and later)."""
    if data[0x202:0x206] != b"HdrS":
        raise Invalid("host.kernel: not a Linux kernel", field="host.kernel")
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    packed = data[start : start + length]
    if packed.startswith(b"\x1f\x8b"):
        return await asyncio.to_thread(zlib.decompressobj(31).decompress, packed)
    packed = packed[:-4]  # the kernel's own note of the unpacked size
    if packed.startswith(b"\xfd7zXZ"):
        return await asyncio.to_thread(lzma.LZMADecompressor().decompress, packed)
    tools = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
    tool = tools.get(packed[:4])
    if tool is None:
        raise Invalid("host.kernel: packed in an unknown way", field="host.kernel")
    await asyncio.to_thread(part.write_bytes, packed)
    return (await run([tool, "-d", "-c", str(part)], timeout=60, max_output=2**28)).out
