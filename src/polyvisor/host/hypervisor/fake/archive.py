"""Tar streams of the fake guest's files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from polyvisor.model.faults import Invalid


def pack(files: Mapping[str, bytes], path: str) -> bytes:
    """What lies at `path`, named from its last part on."""
    path = path.rstrip("/")
    above = path.rpartition("/")[0]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in sorted(files.items()):
            if name == path or name.startswith(path + "/"):
                member = tarfile.TarInfo(name.removeprefix(above + "/"))
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def unpack(data: bytes, path: str) -> dict[str, bytes]:
    """The files of an archive, below `path`. :raise Invalid: it is none, or a member would land elsewhere."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise Invalid(f"{member.name[:200]}: would land elsewhere", field="path")
                source = archive.extractfile(member) if member.isfile() else None
                if source is not None:
                    found[f"{path.rstrip('/')}/{member.name.removeprefix('./')}"] = source.read()
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise Invalid("the body is not a tar archive", field="body") from error
    return found
