"""Parameters that many routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query

from polyvisor.wire import native as wire

_NO_NUL = r"^[^\x00]+$"

Key = Annotated[str, Path(max_length=256, pattern=_NO_NUL, description="an id or a name")]
Cursor = Annotated[str | None, Query(max_length=256, description="`next` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str, Header(max_length=200, description="a repeat with the same key makes no second thing")]
Wait = Annotated[wire.Until, Query(description="Answer when it is accepted, launched, or ready.")]
Limit = Annotated[float, Query(gt=0, le=3600, description="Seconds to wait at most; the work goes on.")]
DEFAULT_WAIT = 120.0
