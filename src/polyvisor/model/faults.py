"""The sixteen ways to say no.

A fault carries meaning, never an HTTP code: each dialect owns a total table `Fault class -> (status, body)`.
`public` is for the caller, `private` for the log, `field` names the offending input, `subject` the thing.
The class docstring is the default public text.
"""

from __future__ import annotations


class Fault(Exception):
    """The request could not be done."""

    def __init__(
        self,
        public: str | None = None,
        *,
        field: str | None = None,
        subject: str | None = None,
        private: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.public = public or (type(self).__doc__ or "").strip()
        self.private = private
        self.field = field
        self.subject = subject
        self.retry_after = retry_after
        super().__init__(self.public)

    @property
    def kind(self) -> str:
        """The stable name of this fault, as stored with a failed operation."""
        return type(self).__name__


class Invalid(Fault):
    """The input is not valid."""


class Unauthenticated(Fault):
    """No valid credential was given."""


class Throttled(Fault):
    """Too many failed attempts; try again later."""


class Forbidden(Fault):
    """The caller may not do this."""


class NotFound(Fault):
    """There is no such thing."""


class Exists(Fault):
    """A thing of that name exists already."""


class WrongState(Fault):
    """The thing is in a state that does not allow this."""


class Busy(Fault):
    """Another operation on the same thing is under way."""


class Stale(Fault):
    """The thing changed since the caller last saw it."""


class OverQuota(Fault):
    """A quota would be exceeded."""


class NoCapacity(Fault):
    """No host has room for this."""


class Unsupported(Fault):
    """This host or hypervisor cannot do that."""


class Upstream(Fault):
    """Something we depend on answered with an error."""


class TimedOut(Fault):
    """It took longer than allowed."""


class Unavailable(Fault):
    """It cannot be reached right now."""


class Internal(Fault):
    """Something went wrong on our side."""


FAULTS: tuple[type[Fault], ...] = (
    Invalid, Unauthenticated, Throttled, Forbidden, NotFound, Exists, WrongState, Busy, Stale,
    OverQuota, NoCapacity, Unsupported, Upstream, TimedOut, Unavailable, Internal,
)  # fmt: skip

_BY_KIND = {cls.__name__: cls for cls in FAULTS}


def revive(kind: str, public: str) -> Fault:
    """The fault that was stored as (kind, public); an unknown kind comes back as `Internal`."""
    return _BY_KIND.get(kind, Internal)(public)
