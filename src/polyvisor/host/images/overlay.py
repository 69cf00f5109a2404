"""Small trees made here: directories, files and links as one tar, owned by root, without a time of their own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


class Overlay:
    """A tar under way; parents must be added before what they hold, where their modes matter."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Overlay:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        data = content.encode() if isinstance(content, str) else content
        self._add(name, tarfile.REGTYPE, mode, data=data)

    def copy(self, name: str, source: Path) -> None:
        with source.open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size = source.stat().st_size
            self._tar.addfile(info, file)

    def link(self, name: str, target: str) -> None:
        self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def _add(self, name: str, kind: bytes, mode: int, *, data: bytes = b"", target: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.size = kind, mode, target, len(data)
        self._tar.addfile(info, io.BytesIO(data))
