"""Forms with a file in them: read in pieces, onto the disk, and held to limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.table import Call
from polyvisor.dialects.hypeman.validate import reason
from polyvisor.engine.images import needing_room
from polyvisor.model.units import MIB

M = TypeVar("M", bound=BaseModel)
_MOST_FILES, _MOST_FIELDS = 20, 50
_LARGEST_FIELD = 2 * MIB
_PIECE = MIB


@dataclass(frozen=True, slots=True)
class Form(Generic[M]):
    """Its fields, and the file that it has to have."""

    fields: M
    file: UploadFile

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is in the file."""
        await self.file.seek(0)
        while data := await self.file.read(_PIECE):
            yield data


@asynccontextmanager
async def form_of(call: Call, model: type[M], file: str, limit: int) -> AsyncIterator[Form[M]]:
    """The form of a request, which is on the disk as long as this is held. :raise Refusal: :raise NoCapacity:"""
    kind = call.request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise _refused(f'request body has an error: header Content-Type has unexpected value "{kind}"')
    stream = _bounded(call.request.stream(), limit + _MOST_FIELDS * _LARGEST_FIELD)
    parser = MultiPartParser(
        call.request.headers, stream, max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LARGEST_FIELD
    )
    try:
        with needing_room():
            parsed = await parser.parse()
    except MultiPartException as error:
        raise _refused(f"request body has an error: {error.message}") from error
    try:
        given = parsed.get(file)
        if not isinstance(given, UploadFile):
            raise Refusal(400, "invalid_request", f"{file} is required, as a file")
        texts = {name: await _text(name, parsed.get(name)) for name in model.model_fields if name in parsed}
        yield Form(_checked(model, texts), given)
    finally:
        await parsed.close()


async def _text(name: str, value: Any) -> str:
    """A field; some clients send a long one as a file."""
    if not isinstance(value, UploadFile):
        return str(value)
    data = await value.read(_LARGEST_FIELD + 1)
    if len(data) > _LARGEST_FIELD:
        raise Refusal(400, "invalid_request", f"{name}: is larger than {_LARGEST_FIELD} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, "invalid_request", f"{name}: must be text") from error


def _checked(model: type[M], texts: dict[str, str]) -> M:
    try:
        return model.model_validate(texts)
    except ValidationError as error:
        first: dict[str, Any] = dict(error.errors(include_url=False)[0])
        raise Refusal(400, "invalid_request", f"{first['loc'][0]}: {reason(first)}") from error


async def _bounded(stream: AsyncIterator[bytes], most: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > most:
            raise _refused(f"request body has an error: it is larger than {most} bytes")
        yield chunk


def _refused(text: str) -> Refusal:
    return Refusal(400, "invalid_request", text)
