"""Which compression an image of memory gets: what was asked, else the instance's policy, else the server's. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polyvisor.model.compression import Compression, Packing, check_delay
from polyvisor.model.spec import Spec
from polyvisor.model.units import Seconds


@dataclass(frozen=True, slots=True)
class CompressionPolicy:
    """What an instance's policy becomes. A `delay` of None leaves that as it was; `compression` None does not, unless
    `keep`: it is the server's own then."""

    compression: Compression | None = None
    delay: Seconds | None = None
    keep: bool = False

    def apply(self, spec: Spec) -> Spec:
        """The spec with it."""
        compression = spec.compression if self.keep else self.compression
        delay = spec.compression_delay if self.delay is None else self.delay
        return replace(spec, compression=compression, compression_delay=delay)


def standby_packing(asked: Compression | None, delay: Seconds | None, spec: Spec, usual: Packing) -> Packing:
    """Of a machine that is suspended. :raise Invalid: the delay is none."""
    wait = next(d for d in (delay, spec.compression_delay, usual.delay) if d is not None)
    return Packing(_first(asked, spec, usual), check_delay(wait))


def snapshot_compression(asked: Compression | None, spec: Spec, usual: Packing) -> Compression:
    """Of a snapshot with memory, which has no delay: nobody comes back to it at once as to a machine in standby."""
    return _first(asked, spec, usual)


def _first(asked: Compression | None, spec: Spec, usual: Packing) -> Compression:
    return next(c for c in (asked, spec.compression, usual.compression) if c is not None)
