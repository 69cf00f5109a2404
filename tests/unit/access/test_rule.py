"""The rule of who may do what, against a model of it that is short enough to be believed."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from polyvisor.access.credentials import reach_of
from polyvisor.model.identity import Grant
from polyvisor.model.ids import ProjectId, UserId
from polyvisor.model.principal import EVERYTHING, Action, Principal

NOW = datetime(2026, 3, 4, tzinfo=UTC)
ACTIONS = (Action.INSTANCE_VIEW, Action.INSTANCE_DELETE, Action.GRANT_ASSIGN)
ANN = UserId("ann")


def modelled(parents: list[int], granted: set[tuple[int, Action]], action: Action, project: int) -> bool:
    """Granted there or anywhere above."""
    here: int | None = project
    while here is not None:
        if (here, action) in granted:
            return True
        here = parents[here - 1] if here else None
    return False


TREES = st.integers(0, 12).flatmap(lambda size: st.tuples(*(st.integers(0, n) for n in range(size))))


@given(st.data(), TREES)
def test_what_is_granted_holds_below_and_nowhere_else(data: st.DataObject, tree: tuple[int, ...]) -> None:
    parents, ids = list(tree), [ProjectId(f"p{n}") for n in range(len(tree) + 1)]
    places = st.tuples(st.integers(0, len(tree)), st.sampled_from(ACTIONS))
    granted = data.draw(st.sets(places, max_size=8))
    revoked = data.draw(st.sets(st.sampled_from(sorted(granted)), max_size=4)) if granted else set()
    held = granted - revoked
    below = [(ids[0], None), *((ids[n + 1], ids[parent]) for n, parent in enumerate(parents))]
    roots = {place for place, _ in held}
    seen = [(id, up) for n, (id, up) in enumerate(below) if any(_is_below(parents, n, root) for root in roots)]
    reach = reach_of([Grant(ANN, ids[place], action) for place, action in held], seen)
    who = Principal("ann", ids[0], EVERYTHING, reach=reach)
    for project in range(len(ids)):
        for action in ACTIONS:
            assert who.may(action, ids[project]) == modelled(parents, held, action, project)


def _is_below(parents: list[int], project: int, root: int) -> bool:
    here: int | None = project
    while here is not None and here != root:
        here = parents[here - 1] if here else None
    return here == root
