"""What a dialect keeps with a thing of ours: another name for it, and what it must give back and nobody here reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from polyvisor.model.ids import ProjectId


@dataclass(frozen=True, slots=True)
class Foreign:
    """`remainder` is JSON that only the dialect reads.

    `alias` is (kind, foreign id): it has one meaning at most in a project, a dialect and a kind, and a thing has one of
    a kind; an empty id is none. Both go when the thing goes.
    """

    dialect: str
    remainder: str = field(default="", repr=False)
    alias: tuple[str, str] | None = None

    def of(self, id: str) -> Foreign:
        """The same, when the thing's own id is known: `{id}` in an alias is that."""
        if self.alias is None:
            return self
        kind, alias = self.alias
        return replace(self, alias=(kind, alias.replace("{id}", id)))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table that only a dialect has: a tag, a favourite, or the number that it calls a thing of ours by.

    `key` is given once and never again, over all tables; 0: not given yet. `name` is one row's in its table. `data` is
    JSON. A row goes with its project, and with the `subject` that it is about, if it is about one.
    """

    dialect: str
    kind: str
    name: str
    project: ProjectId
    subject: str = ""
    data: str = field(default="{}", repr=False)
    key: int = 0
