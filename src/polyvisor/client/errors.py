"""`Refused`: the one exception of the client."""

from __future__ import annotations

from pydantic import ValidationError

from polyvisor.wire.native import Problem


class Refused(Exception):
    """The server said no, or could not be asked: `status` is None when no HTTP answer said so."""

    def __init__(self, problem: Problem, status: int | None = None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.status = status

    @property
    def kind(self) -> str:
        """One of the sixteen kinds of refusal."""
        return self.problem.kind


def unreachable(message: str) -> Refused:
    """The server, or what it leads to, cannot be reached."""
    return Refused(Problem(kind="Unavailable", message=message))


def from_answer(status: int, body: bytes) -> Refused:
    """The refusal in an HTTP answer, also one that somebody in between wrote."""
    try:
        return Refused(Problem.model_validate_json(body), status)
    except ValidationError:
        return Refused(Problem(kind="Upstream", message=f"the server answered {status} without a reason"), status)
