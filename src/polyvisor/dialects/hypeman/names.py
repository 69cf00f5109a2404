"""Image names: upstream spells a short one out with the registry that everybody means; here a local image comes first.

`docker.io/library/x:latest` and `x` are one name in this dialect (hypeman.md §1.4). Ours for it is `x:latest`: an image
of that name that is here, built in, or in the registry that the operator configured.
"""

from __future__ import annotations

from dataclasses import replace

from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.model.faults import Invalid
from polyvisor.model.image import Reference, parse_reference

_HUB = "docker.io"
_ALSO = frozenset({_HUB, f"index.{_HUB}"})
_LIBRARY = "library/"


def reference_of(name: str) -> Reference:
    """The name as a reference. :raise Refusal: it is none."""
    try:
        return parse_reference(name)
    except Invalid as fault:
        raise Refusal(400, "invalid_name", f"invalid image reference: {fault.public}") from fault


def ours(name: str) -> str:
    """What we call it: short where upstream's long name is only the short one spelt out. :raise Refusal:"""
    if name.startswith("sha256:"):
        return name
    found = reference_of(name)
    if found.registry in _ALSO or not found.registry:
        found = replace(found, registry="", repository=found.repository.removeprefix(_LIBRARY))
    return str(found)


def spelt_out(name: str) -> str:
    """What upstream calls it. :raise Refusal:"""
    found = reference_of(name)
    if found.registry in _ALSO:
        found = replace(found, registry="")
    if found.registry:
        return str(found)
    repository = found.repository if "/" in found.repository else _LIBRARY + found.repository
    return str(replace(found, registry=_HUB, repository=repository))
