"""A small image with Python in it: this machine's own, and nothing but that. Made in seconds."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from real.archives import Layer, entry
from real.test_image_sources import imported, saved, shell
from serving import Server

PYTHON = Path("/usr/bin/python3").resolve()
_APPLETS = ("kill", "ps", "touch", "dd", "mkdir", "rm", "tar", "gzip", "seq", "wget")
_LEFT_OUT = re.compile(r"/(test|tests|idlelib|ensurepip|tkinter|lib2to3|pydoc_data|config-[^/]*|dist-packages)(/|$)")


def _files(programs: Sequence[Path]) -> Iterator[Path]:
    library = Path("/usr/lib") / PYTHON.name
    needy = [PYTHON, *library.glob("lib-dynload/_ssl.*.so"), *programs]
    said = subprocess.run(["ldd", *map(str, needy)], capture_output=True, text=True, check=True).stdout
    yield from dict.fromkeys(map(Path, re.findall(r"(/\S+) \(0x", said)))
    yield from (p for p in sorted(library.rglob("*")) if p.is_file() and not _LEFT_OUT.search(str(p)))


def _layer(programs: Sequence[Path]) -> Layer:
    files = [entry(str(p)[1:], p.read_bytes(), mode=0o755 if ".so" in p.name else 0o644) for p in _files(programs)]
    return [
        *shell(*(entry(name, kind=tarfile.DIRTYPE, mode=0o755) for name in ("root", "usr", "tmp", "proc", "dev"))),
        *(entry(f"bin/{name}", kind=tarfile.SYMTYPE, linkname="busybox") for name in _APPLETS),
        *files,
        *(entry(f"bin/{p.name}", p.read_bytes(), mode=0o755) for p in programs),
        entry("bin/python3", PYTHON.read_bytes(), mode=0o755),
    ]


@contextmanager
def python_on(server: Server, folder: Path, *programs: Path) -> Iterator[str]:
    """The name of an image with Python, and these programs of this machine, on that server."""
    with imported(server, saved(folder, _layer(programs))) as name:
        yield name
