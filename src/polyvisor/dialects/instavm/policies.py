"""What a VM may reach, in this dialect's words (instavm.md §1.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from polyvisor.dialects.instavm.wire import Text
from polyvisor.model.egress import OPEN, EgressPolicy, parse_policy
from polyvisor.model.faults import Invalid


class EgressBody(BaseModel):
    """A policy; what is left out is open. Package registries have two names, of which clients use one or the other."""

    model_config = ConfigDict(extra="ignore")

    allow_http: bool = True
    allow_https: bool = True
    allow_package_managers: bool | None = None
    allow_public_repos: bool | None = None
    allowed_domains: list[Text] | None = None
    allowed_cidrs: list[Text] | None = None


def policy_of(body: EgressBody, field: str = "") -> EgressPolicy:
    """:raise Invalid: naming what of it is wrong, below `field`."""
    packages = [one for one in (body.allow_package_managers, body.allow_public_repos) if one is not None]
    return parse_policy(
        allow_http=body.allow_http, allow_https=body.allow_https,
        allow_package_managers=packages[0] if packages else True, domains=body.allowed_domains or [],
        cidrs=body.allowed_cidrs or [], domains_field=f"{field}allowed_domains", cidrs_field=f"{field}allowed_cidrs",
    )  # fmt: skip


def policy_in(given: Mapping[str, Any] | None) -> EgressPolicy:
    """Of a create: without one, all that is not ours or another VM's. :raise Invalid:"""
    if given is None:
        return OPEN
    try:
        body = EgressBody.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["egress_policy", *map(str, first["loc"])])
        raise Invalid(f"{field}: {first['msg']}", field=field) from error
    return policy_of(body, "egress_policy.")


def told(policy: EgressPolicy | None) -> dict[str, Any]:
    """As its routes have it."""
    policy = policy or OPEN
    return {
        "allow_http": policy.allow_http,
        "allow_https": policy.allow_https,
        "allow_package_managers": policy.allow_package_managers,
        "allow_public_repos": policy.allow_package_managers,
        "allowed_domains": list(policy.domains),
        "allowed_cidrs": list(policy.cidrs),
        "status": "ok",
    }


def kept(policy: EgressPolicy) -> dict[str, Any]:
    """As a session's wishes have it."""
    return {name: value for name, value in told(policy).items() if name not in ("status", "allow_public_repos")}
