"""What a principal may do to whose things. The one place where that is decided."""

from __future__ import annotations

from polyvisor.model.faults import Forbidden, NotFound
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action, Principal


def scope(principal: Principal) -> ProjectId | None:
    """The project whose things the principal sees; None: everybody's."""
    return None if principal.operator else principal.project


def permit(principal: Principal, action: Action, owner: ProjectId, subject: str) -> None:
    """Let pass, or refuse. What belongs to another project does not exist for the caller.

    :raise NotFound: naming `subject`, when it is another project's. :raise Forbidden: the action is not granted.
    """
    if not principal.operator and owner != principal.project:
        raise NotFound(subject=subject)
    require(principal, action)


def require(principal: Principal, action: Action) -> None:
    """:raise Forbidden: the action is not granted in the caller's own project."""
    if action not in principal.actions:
        raise Forbidden(f"this credential may not {action}")


def require_operator(principal: Principal) -> None:
    """:raise Forbidden: the caller is not the operator of this installation."""
    if not principal.operator:
        raise Forbidden("only the operator may do this")
