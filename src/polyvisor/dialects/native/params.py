"""Parameters that many routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query

_NO_NUL = r"^[^\x00]+$"

Key = Annotated[str, Path(max_length=256, pattern=_NO_NUL, description="an id or a name")]
Cursor = Annotated[str | None, Query(max_length=256, description="`next` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str, Header(max_length=200, description="a repeat with the same key makes no second thing")]
