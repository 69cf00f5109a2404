"""Which image of memory each instance maps or waits in: one small file beside each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from polyvisor.host.durable import read_record, write_record
from polyvisor.host.paths import Paths
from polyvisor.model.faults import Internal
from polyvisor.model.ids import InstanceId

_FILE = "memory.json"


@dataclass(frozen=True, slots=True)
class Holds:
    """What is on record of one instance: `base` is the image its process maps, `saved` the one it waits in.

    `shared`: others may map the same. `strange`: what it waits in, or was just made of, is a copy of another machine,
    which has to be told who it is before it may speak to anybody. `bare`: and what it is for. `boot`: the boot of the
    host that it counts for; it need not be on disk then, since after another one it is of the past.
    """

    base: str = ""
    saved: str = ""
    shared: bool = False
    strange: bool = False
    bare: bool = False
    boot: str = ""

    @property
    def idle(self) -> bool:
        """Whether it knows who it is and waits to be told what for."""
        return self.bare and not self.strange


class Records:
    """What every instance holds."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def file(self, id: InstanceId) -> Path:
        """Where it is written."""
        return self._paths.instance(id) / _FILE

    def of(self, id: InstanceId) -> Holds:
        """What the instance holds; nothing, as long as nothing was written. :raise Internal: it cannot be read."""
        return _read(self.file(id))

    def put(self, id: InstanceId, holds: Holds, *, durable: bool = False) -> None:
        """`durable`: what was on record before must not come back with the host's next boot. :raise NoCapacity:"""
        write_record(self.file(id), asdict(holds), durable=durable)

    def all(self) -> Iterator[Holds]:
        """What each instance holds. :raise Internal: a record cannot be read, so nobody knows."""
        for folder in self._paths.instances.iterdir():
            yield _read(folder / _FILE)

    def images(self) -> Iterator[str]:
        """Every image that an instance holds. :raise Internal: as for `all`."""
        for holds in self.all():
            yield from (holds.base, holds.saved)


def _read(file: Path) -> Holds:
    found = read_record(file)
    try:
        return Holds() if found is None else Holds(**found)
    except TypeError as error:
        raise Internal(private=f"{file}: {error}") from error
