"""What a principal may do to whose things. The one place where that is decided."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar

from polyvisor.model.faults import Forbidden, NotFound
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action, Principal

touched: ContextVar[ProjectId | None] = ContextVar("touched", default=None)
"""Whose thing was asked about last, by this task: for the audit log, whatever came of it."""


def scope(principal: Principal, action: Action) -> Collection[ProjectId] | None:
    """The projects to whose things the principal may do that; None: everybody's."""
    if principal.operator:
        return None if action in principal.actions else ()
    return [project for project in principal.reach if principal.may(action, project)]


def permit(principal: Principal, action: Action, owner: ProjectId, subject: str) -> None:
    """Let pass, or refuse. Of what it may not see it is not told that it is there.

    :raise NotFound: naming `subject`. :raise Forbidden: the action is not granted on what can be seen.
    """
    touched.set(owner)
    if principal.may(action, owner):
        return
    known = action.view is None or principal.may(action.view, owner) or principal.operator
    if not known:
        raise NotFound(subject=subject)
    raise Forbidden(f"this credential may not {_words(action)}")


def require(principal: Principal, action: Action, project: ProjectId | None = None) -> None:
    """:raise Forbidden: the action is not granted in that project, or in the one the caller acts in."""
    if project is not None:
        touched.set(project)
    if not principal.may(action, principal.project if project is None else project):
        raise Forbidden(f"this credential may not {_words(action)}")


def require_somewhere(principal: Principal, action: Action) -> None:
    """:raise Forbidden: the action is granted in no project."""
    if not principal.may_somewhere(action):
        raise Forbidden(f"this credential may not {_words(action)}")


def require_operator(principal: Principal) -> None:
    """:raise Forbidden: the caller is not the operator, with a credential that holds nothing back."""
    if not (principal.operator and principal.whole):
        raise Forbidden("only the operator may do this")


def _words(action: Action) -> str:
    noun, _, verb = action.partition(".")
    return f"{verb} {noun}s"
