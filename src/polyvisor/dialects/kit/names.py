"""Names that a dialect allows and we do not: ours is the id then, and the dialect's own is kept as an alias."""

from __future__ import annotations

import json

from polyvisor.model.faults import Invalid
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import check_name

LONGEST = 255


def named(dialect: str, name: str, kind: str, **remainder: object) -> tuple[str, Foreign | None]:
    """Our name for something, "" where it is to be its id, and what the dialect keeps.

    A name that ours cannot be is an alias as well, so that it has one owner in its project. :raise Invalid:
    """
    if not 1 <= len(name) <= LONGEST or not name.isprintable():
        raise Invalid(f"name: must be 1 to {LONGEST} printable characters", field="name")
    try:
        return check_name(name), Foreign(dialect, json.dumps(remainder)) if remainder else None
    except Invalid:
        return "", Foreign(dialect, json.dumps({"name": name, **remainder}), alias=(kind, name))
