"""That a data directory and a store belong together.

A server that opened an empty or foreign store on a full data directory would clear the disks away as nobody's; two
servers on one store would run each machine twice. So the store's host id is written into the directory, once.
"""

from __future__ import annotations

from pathlib import Path

from polyvisor.model.faults import WrongState
from polyvisor.ports.store import Store

FILE = "host"


async def claim(data: Path, store: Store) -> None:
    """Write the id at the first start, compare it at every other one.

    :raise WrongState: the directory is another store's, or the store's instances are in another directory.
    """
    file = data / FILE
    id = await store.host_id()
    if file.exists():
        known = file.read_text().strip()
        if known != id:
            raise WrongState(
                f"{data} belongs to another store than the configured one (host {known}, the store's is {id}): "
                "nothing was touched",
                field="store.url",
            )
        return
    async with store.read() as unit:
        instances, volumes = await unit.instances.all(), await unit.volumes.all()
    strange = _strange(data, {str(i.id) for i in instances} | {str(v.id) for v in volumes})
    if strange or ((instances or volumes) and not _any(data)):
        what = f"{data} holds {strange[0]}, which it does not know" if strange else f"their files are not in {data}"
        raise WrongState(
            f"the store (host {id}) has instances or volumes, or should have: {what}. If this really is its "
            f"directory, write {id} into {file}",
            field="store.url",
        )
    file.write_text(id + "\n")


def _entries(data: Path) -> list[Path]:
    return [path for folder in ("instances", "volumes") for path in sorted((data / folder).glob("*"))]


def _any(data: Path) -> bool:
    return bool(_entries(data))


def _strange(data: Path, known: set[str]) -> list[str]:
    """Files of machines and volumes that no record speaks of."""
    return [f"{path.parent.name}/{path.name}" for path in _entries(data) if path.stem not in known]
