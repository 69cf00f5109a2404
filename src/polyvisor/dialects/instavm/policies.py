"""What a VM may reach, in this dialect's words (instavm.md §1.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyvisor.dialects.instavm.wire import EgressBody
from polyvisor.model.egress import OPEN, EgressPolicy, parse_policy


def policy_of(body: EgressBody, field: str = "") -> EgressPolicy:
    """:raise Invalid: naming what of it is wrong, below `field`."""
    packages = [one for one in (body.allow_package_managers, body.allow_public_repos) if one is not None]
    return parse_policy(
        allow_http=body.allow_http, allow_https=body.allow_https,
        allow_package_managers=packages[0] if packages else True, domains=body.allowed_domains or [],
        cidrs=body.allowed_cidrs or [], domains_field=f"{field}allowed_domains", cidrs_field=f"{field}allowed_cidrs",
    )  # fmt: skip


def policy_in(kept: Mapping[str, Any] | None) -> EgressPolicy:
    """Of a session's wishes: without one, all that is not ours or another VM's."""
    return OPEN if kept is None else policy_of(EgressBody.model_validate(kept))


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
