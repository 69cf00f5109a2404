"""What media and machines are called here: MIDs are UUIDs made of our ids, names any text.

A name that ours cannot be is kept as the dialect's own, and is an alias as well, so that it has one owner in its group.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence

from polyvisor.dialects.kit import names
from polyvisor.engine import Engine
from polyvisor.model.foreign import Foreign
from polyvisor.model.instance import Instance
from polyvisor.model.volume import Volume

DIALECT = "velocity"


def mid_of(volume: Volume) -> str:
    """The UUID of a medium, in upper case."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"polyvisor:volume:{volume.id}")).upper()


def named(name: str, kind: str = "medium", **remainder: object) -> tuple[str, Foreign | None]:
    """Our name for something and what is kept with it, see the kit. :raise Invalid:"""
    return names.named(DIALECT, name, kind, **remainder)


async def names_of(core: Engine, things: Sequence[Volume] | Sequence[Instance]) -> Mapping[str, str]:
    """What each is called here, by id."""
    kept = await remainders_of(core, [one.id for one in things])
    return {one.id: name_of(one, kept.get(one.id, {})) for one in things}


def name_of(thing: Volume | Instance, kept: Mapping[str, object]) -> str:
    """What it is called here: our name, unless its id has to stand for one that ours cannot be."""
    return str(kept.get("name", thing.name)) if thing.name == thing.id else thing.name


async def remainders_of(core: Engine, ids: Sequence[str]) -> Mapping[str, dict[str, object]]:
    """What the dialect keeps with these things, by id."""
    found = await core.foreigners.remainders(DIALECT, ids)
    return {id: json.loads(text) for id, text in found.items() if text}
