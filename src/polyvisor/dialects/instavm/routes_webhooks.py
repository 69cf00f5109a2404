"""Webhooks: endpoints, and what was delivered to them (instavm.md §1.15)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from polyvisor.dialects.instavm import happenings, hooks, vms
from polyvisor.dialects.instavm.dispatch import Dispatcher
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.hooks import Delivery, Endpoint
from polyvisor.dialects.instavm.wire import Text, WebhookBody, WebhookUpdate
from polyvisor.model.faults import NotFound, WrongState
from polyvisor.model.ids import mint

router = APIRouter(prefix="/v1/webhooks")

# -- endpoints ---------------------------------------------------------------------------------------------------------


async def _check(call: Call, body: WebhookBody | WebhookUpdate) -> None:
    """:raise Invalid:"""
    if body.event_patterns is not None:
        happenings.check_patterns(body.event_patterns)
    if body.url is not None:
        await call.core.courier.check(body.url, private=call.settings.webhooks_private)


@router.post("/endpoints")
async def create(call: Caller, body: WebhookBody) -> dict[str, Any]:
    """It hears of what happens from now on. Its secret is told this once."""
    hooks.require(call, call.principal.project)
    await _check(call, body)
    patterns = happenings.check_patterns(body.event_patterns or ["*"])
    endpoint = Endpoint(
        f"whe_{mint()}", call.principal.project, vms.now(), body.url, body.description or "", patterns,
        body.timeout_seconds, body.max_retries, hooks.new_secret(),
    )  # fmt: skip
    return hooks.told(await hooks.add(call, endpoint), secret=True)


@router.get("/endpoints")
async def list_all(call: Caller) -> list[dict[str, Any]]:
    """The caller's."""
    return [hooks.told(one) for one in await hooks.endpoints(call)]


@router.get("/endpoints/{endpoint_id}")
async def get(call: Caller, endpoint_id: str) -> dict[str, Any]:
    """One."""
    return hooks.told(await hooks.find(call, endpoint_id))


def _wanted(body: WebhookUpdate) -> Mapping[str, Any]:
    said = {
        "url": body.url,
        "description": body.description,
        "patterns": body.event_patterns and happenings.check_patterns(body.event_patterns),
        "timeout": body.timeout_seconds,
        "retries": body.max_retries,
        "enabled": body.enabled,
    }
    return {name: one for name, one in said.items() if one is not None}


@router.patch("/endpoints/{endpoint_id}")
async def update(call: Caller, endpoint_id: str, body: WebhookUpdate) -> dict[str, Any]:
    """What is left out stays. What happened while it was disabled is not told later; what waited then is sent."""
    hooks.require(call, (await hooks.find(call, endpoint_id)).project)
    await _check(call, body)
    async with vms.one_at_a_time(f"webhook {endpoint_id}"):
        endpoint = await hooks.find(call, endpoint_id)
        changed = replace(endpoint, **_wanted(body))
        if changed.url != endpoint.url:
            changed = replace(changed, verified=None)
        if changed.enabled and not endpoint.enabled:
            await hooks.skip(call, endpoint)
        await hooks.save(call, changed)
    return hooks.told(changed)


@router.delete("/endpoints/{endpoint_id}")
async def delete(call: Caller, endpoint_id: str) -> dict[str, Any]:
    """It hears of nothing any more, and its deliveries are forgotten."""
    async with vms.one_at_a_time(f"webhook {endpoint_id}"):
        await hooks.remove(call, await hooks.find(call, endpoint_id))
    return {"id": endpoint_id, "status": "deleted"}


@router.post("/endpoints/{endpoint_id}/rotate-secret")
async def rotate_secret(call: Caller, endpoint_id: str) -> dict[str, Any]:
    """Another secret, which all that is sent from now on is signed with."""
    async with vms.one_at_a_time(f"webhook {endpoint_id}"):
        endpoint = replace(await hooks.find(call, endpoint_id), secret=hooks.new_secret())
        await hooks.save(call, endpoint)
    return hooks.told(endpoint, secret=True)


@router.post("/endpoints/{endpoint_id}/verify")
async def verify(request: Request, call: Caller, endpoint_id: str) -> dict[str, Any]:
    """It is asked whether it is there, now, and has to answer with 2xx."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    asked = await hooks.find(call, endpoint_id)
    hooks.require(call, asked.project)
    receipt = await dispatcher.challenge(asked)
    async with vms.one_at_a_time(f"webhook {endpoint_id}"):
        endpoint = await hooks.find(call, endpoint_id)
        if receipt.taken and endpoint.url == asked.url:
            endpoint = replace(endpoint, verified=vms.now())
            await hooks.save(call, endpoint)
    return {
        **hooks.told(endpoint),
        "status": "verified" if receipt.taken else "failed",
        "verified": receipt.taken,
        "response_status": receipt.status,
        "error_message": receipt.error or None,
    }


@router.post("/endpoints/{endpoint_id}/test")
async def test(call: Caller, endpoint_id: str) -> dict[str, Any]:
    """A delivery that says nothing, whatever the endpoint subscribes to."""
    endpoint = _enabled(await hooks.find(call, endpoint_id))
    id = f"evt_{mint()}"
    body = happenings.body(id, happenings.TEST, vms.stamp(vms.now()), {"endpoint_id": endpoint.id})
    return await _enqueued(call, hooks.new_delivery(endpoint, id, happenings.TEST, body))


def _enabled(endpoint: Endpoint) -> Endpoint:
    """:raise WrongState:"""
    if not endpoint.enabled:
        raise WrongState(f"Webhook endpoint {endpoint.id} is disabled")
    return endpoint


async def _enqueued(call: Call, delivery: Delivery) -> dict[str, Any]:
    await hooks.enqueue(call, delivery)
    return {**hooks.told_delivery(delivery), "delivery_id": delivery.id}


# -- deliveries --------------------------------------------------------------------------------------------------------


@router.get("/deliveries")
async def list_deliveries(
    call: Caller, endpoint_id: str | None = None, status: hooks.State | None = None, event_type: Text | None = None,
    cursor: int | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """The latest, newest first; `next_cursor` leads to those before."""
    there = await hooks.endpoints(call) if endpoint_id is None else [await hooks.find(call, endpoint_id)]
    found = [
        one
        for one in await hooks.deliveries(call, [endpoint.id for endpoint in there])
        if (cursor is None or one.key < cursor) and status in (None, one.state) and event_type in (None, one.kind)
    ]
    more = str(found[limit - 1].key) if len(found) > limit else None
    return {"items": [hooks.told_delivery(one) for one in found[:limit]], "next_cursor": more}


@router.post("/deliveries/{delivery_id}/replay")
async def replay(call: Caller, delivery_id: str) -> dict[str, Any]:
    """The same event once more, as a delivery of its own."""
    there = {one.id: one for one in await hooks.endpoints(call)}
    for one in await hooks.deliveries(call, list(there)):
        if one.id == delivery_id:
            endpoint = _enabled(there[one.endpoint])
            return await _enqueued(call, hooks.new_delivery(endpoint, one.event, one.kind, one.body, one.id))
    raise NotFound(f"Webhook delivery {delivery_id[:80]} not found", subject=delivery_id[:80])
