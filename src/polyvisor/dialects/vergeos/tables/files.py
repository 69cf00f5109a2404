"""`files`: the media catalogue. A file is a volume of its bytes, filled up to whole sectors (vergeos.md §2.12)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response, StreamingResponse

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, File
from polyvisor.dialects.vergeos.tables.declare import kept, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action
from polyvisor.model.spec import MAX_DISK
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Volume

KIND = "files"
PLAIN = "FILE"
"""The kind of a volume that is a file and no ISO."""
_TYPES = words("iso", "img", "qcow", "qcow2", "raw", "vdi", "vhd", "vhdx", "vmdk", "ova", "ovf", "unknown")
_TAKEN = "This name is already in use"


def type_of(name: str) -> str:
    """The type of a file of that name."""
    word = name.rpartition(".")[2].lower()
    return word if word in _TYPES else "unknown"


def length_of(file: File) -> int:
    """How many bytes it has; a medium that was made through another API has whole sectors."""
    return int(file.kept.get("length") or file.volume.size)


def name_of(file: File) -> str:
    """What it is called."""
    return str(file.kept.get("name") or file.volume.name)


def _type(file: File) -> str:
    found = type_of(name_of(file))
    return "iso" if found == "unknown" and file.volume.kind == "ISO" else found


TABLE = Table(
    KIND,
    (
        key(),
        told("id", Kind.STRING, lambda file: str(file.key), hidden=True),
        Column("name", Kind.STRING, name_of, required=True, shortest=1, longest=255, forbidden="/", summary=True),
        told("type", Kind.CHOICE, _type, choices=_TYPES, summary=True),
        kept("description", Kind.TEXT, longest=2048),
        told("filesize", Kind.INT, length_of, summary=True),
        Column("allocated_bytes", Kind.INT, length_of, low=1, high=MAX_DISK),
        told("used_bytes", Kind.INT, lambda file: file.used),
        kept("preferred_tier", Kind.TIER, "1", choices=dict.fromkeys("12345", "Tier")),
        told("modified", Kind.TIME, lambda file: file.kept.get("modified", int(file.volume.created.timestamp()))),
        told("creator", Kind.STRING, lambda file: file.kept.get("creator", "")),
    ),
    short=("$key", "name", "type", "filesize"),
)


async def _load(world: World) -> Sequence[File]:
    return await world.files()


def checked_name(name: str) -> str:
    """A name that a file can have. :raise Refusal: 422."""
    return str(TABLE.body({"name": name}, new=False)["name"])


async def check_free(call: Call, name: str) -> None:
    """:raise Refusal: a file that the caller sees is called that."""
    if any(name_of(file) == name for file in await call.world.files()):
        raise Refusal(422, _TAKEN)


async def listed(call: Call, name: str, volume: Volume, length: int, **more: object) -> int:
    """The key of the new file that this volume is. :raise Refusal: the name is taken; the volume is gone then."""
    told = {"name": name, "length": length, "creator": call.principal.name, "modified": call.now, **more}
    row = Row(DIALECT, KIND, volume.id, volume.project, volume.id, json.dumps(told))
    try:
        async with call.locks.of("files"):
            call.world.forget()
            known = {one.row.name: one.row for one in await call.world.files()}
            await check_free(call, name)
            if (seen := known.get(volume.id)) is not None:  # who listed files meanwhile has given it a key
                await call.core.rows.save(call.principal, [replace(seen, data=row.data)], Action.VOLUME_CREATE)
                return seen.key
            return (await call.core.rows.add(call.principal, [row], Action.VOLUME_CREATE))[0].key
    except BaseException:
        await call.core.volumes.delete(call.principal, volume.id)
        raise


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """A file of zeros, to be written piece by piece."""
    name = values["name"]
    length = values.get("allocated_bytes")
    if length is None:
        raise errors.required("allocated_bytes")
    await check_free(call, name)
    kind = "ISO" if type_of(name) == "iso" else PLAIN
    volume = await call.core.media.create_blank(call.principal, "", Bytes(length), kind=kind)
    more = {key: values[key] for key in ("description", "preferred_tier") if key in values}
    return Made(await listed(call, name, volume, length, **more))


async def _change(call: Call, file: File, values: dict[str, Any]) -> None:
    if values.get("allocated_bytes", length_of(file)) != length_of(file):
        raise invalid_field("allocated_bytes", "cannot be changed")
    if any(name_of(one) == values.get("name") and one.key != file.key for one in await call.world.files()):
        raise Refusal(422, _TAKEN)
    told = {"name": name_of(file), **file.kept, **values, "modified": call.now}
    await call.core.rows.save(call.principal, [replace(file.row, data=json.dumps(told))], Action.VOLUME_ALTER)


async def _remove(call: Call, file: File) -> None:
    await call.core.volumes.delete(call.principal, file.volume.id)


async def _upload(call: Call, file: File) -> Response:
    """A piece of the file, at its place."""
    word = call.request.query_params["filepos"]
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise Refusal(422, "Validation error on field: 'filepos' - 'is not a whole number'")
    volume = replace(file.volume, size=Bytes(length_of(file)))  # what was promised, not the sectors it takes
    await call.core.media.write(call.principal, volume, int(word), call.request.stream())
    return Response()


async def _download(call: Call, file: File) -> Response:
    length = length_of(file)
    headers = {"Content-Length": str(length)}
    return StreamingResponse(
        call.core.media.read(call.principal, file.volume, length),
        headers=headers,
        media_type="application/octet-stream",
    )


RESOURCES = (Resource(TABLE, _load, _create, _change, _remove, download=_download, upload=_upload),)
