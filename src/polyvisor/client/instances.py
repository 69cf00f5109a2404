"""Instances and what streams out of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Unpack

from polyvisor.client.link import Link, More, Params, part
from polyvisor.client.sockets import Console, Exec, open_console, open_exec
from polyvisor.wire import native as wire

_WAIT = 120.0
_ON_THE_WAY = 15.0  # how much longer than the server we wait, so that its own words reach us


class Instances:
    """`key` is an id or a name. `wait`: answer when it is accepted, launched or ready, within `timeout` seconds."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def _ask(
        self, method: str, path: str, wait: wire.Until, timeout: float, **more: Unpack[More]
    ) -> wire.Instance:
        params: Params = {"wait": wait, "timeout": timeout, **more.pop("params", {})}
        more["params"], more["patience"] = params, timeout + _ON_THE_WAY
        return await self._link.ask(method, path, wire.Instance, **more)

    async def create(
        self, request: wire.CreateInstance, *, wait: wire.Until = "accepted", timeout: float = _WAIT,
        idempotency_key: str = "",
    ) -> wire.Instance:  # fmt: skip
        """A new instance. With an idempotency key, a repeat answers with the first one's."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._ask("POST", "/instances", wait, timeout, body=request, headers=headers)

    async def page(
        self, cursor: str | None = None, limit: int = 100, labels: dict[str, str] | None = None
    ) -> wire.InstancePage:
        """One page, oldest first."""
        pairs = [f"{name}={value}" for name, value in (labels or {}).items()]
        params: Params = {"cursor": cursor, "limit": limit, "label": pairs or None}
        return await self._link.ask("GET", "/instances", wire.InstancePage, params=params)

    async def list(self, labels: dict[str, str] | None = None, limit: int = 500) -> AsyncIterator[wire.Instance]:
        """Every one, page after page."""
        page = await self.page(None, limit, labels)
        while True:
            for instance in page.items:
                yield instance
            if page.next is None:
                return
            page = await self.page(page.next, limit, labels)

    async def get(self, key: str) -> wire.Instance:
        """One instance."""
        return await self._link.ask("GET", _path(key), wire.Instance)

    async def press(self, key: str) -> wire.Instance:
        """The power button, and no more."""
        return await self._link.ask("POST", f"{_path(key)}/press", wire.Instance)

    async def screenshot(self, key: str) -> bytes:
        """Its screen, as PNG."""
        async with self._link.stream("GET", f"{_path(key)}/screenshot", patience=_WAIT) as answer:
            return await answer.aread()

    async def screen_ticket(self, key: str) -> wire.ScreenTicket:
        """A ticket for one viewer of its screen."""
        return await self._link.ask("POST", f"{_path(key)}/screen/tickets", wire.ScreenTicket)

    async def update(self, key: str, request: wire.UpdateInstance) -> wire.Instance:
        """New name, labels or lifetime."""
        return await self._link.ask("PATCH", _path(key), wire.Instance, body=request)

    async def delete(
        self, key: str, *, force: bool = False, wait: wire.Until = "launched", timeout: float = _WAIT
    ) -> wire.Instance:
        """Delete it and its disk. One that runs is refused without `force`."""
        return await self._ask("DELETE", _path(key), wait, timeout, params={"force": force})

    async def code(self, key: str, request: wire.CodeRequest) -> wire.CodeResult:
        """Run code to its end."""
        patience = request.timeout + _WAIT
        return await self._link.ask("POST", _path(key, "code"), wire.CodeResult, body=request, patience=patience)

    async def health(self, key: str) -> wire.Health:
        """How its workload is, as its health check has it."""
        return await self._link.ask("GET", _path(key, "health"), wire.Health)

    async def start(self, key: str, *, wait: wire.Until = "launched", timeout: float = _WAIT) -> wire.Instance:
        """Power on."""
        return await self._ask("POST", _path(key, "start"), wait, timeout)

    async def stop(
        self, key: str, *, force: bool = False, grace: float | str | None = None, wait: wire.Until = "launched",
        timeout: float = _WAIT,
    ) -> wire.Instance:  # fmt: skip
        """Power off: the guest is asked first, unless `force`."""
        body = wire.StopInstance(force=force, grace=grace)
        return await self._ask("POST", _path(key, "stop"), wait, timeout, body=body)

    async def restart(
        self, key: str, *, force: bool = False, wait: wire.Until = "launched", timeout: float = _WAIT
    ) -> wire.Instance:
        """Stop, then start."""
        return await self._ask("POST", _path(key, "restart"), wait, timeout, body=wire.RestartInstance(force=force))

    async def reset(self, key: str, *, wait: wire.Until = "launched", timeout: float = _WAIT) -> wire.Instance:
        """The reset button."""
        return await self._ask("POST", _path(key, "reset"), wait, timeout)

    async def pause(self, key: str, *, wait: wire.Until = "launched", timeout: float = _WAIT) -> wire.Instance:
        """Stop the vCPUs."""
        return await self._ask("POST", _path(key, "pause"), wait, timeout)

    async def resume(self, key: str, *, wait: wire.Until = "launched", timeout: float = _WAIT) -> wire.Instance:
        """Let the vCPUs go on."""
        return await self._ask("POST", _path(key, "resume"), wait, timeout)

    async def fork(
        self, key: str, request: wire.ForkInstance | None = None, *, wait: wire.Until = "launched",
        timeout: float = _WAIT, idempotency_key: str = "",
    ) -> wire.Instance:  # fmt: skip
        """A new instance that is what this one is now."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = request or wire.ForkInstance()
        return await self._ask("POST", _path(key, "fork"), wait, timeout, body=body, headers=headers)

    async def standby(
        self, key: str, request: wire.StandbyInstance | None = None, *, wait: wire.Until = "launched",
        timeout: float = _WAIT,
    ) -> wire.Instance:  # fmt: skip
        """Save its memory and end its process."""
        return await self._ask("POST", _path(key, "standby"), wait, timeout, body=request or wire.StandbyInstance())

    async def restore(self, key: str, *, wait: wire.Until = "launched", timeout: float = _WAIT) -> wire.Instance:
        """Go on where it was suspended."""
        return await self._ask("POST", _path(key, "restore"), wait, timeout)

    async def wait(self, key: str, states: Sequence[str] = ("ended",), timeout: float = _WAIT) -> wire.Instance:
        """Once it is in one of `states` (`ready` and `ended` too). :raise Refused: TimedOut, not within `timeout`."""
        params: Params = {"state": list(states), "timeout": timeout}
        patience = timeout + _ON_THE_WAY
        return await self._link.ask("GET", _path(key, "wait"), wire.Instance, params=params, patience=patience)

    async def attach(
        self, key: str, request: wire.AttachVolume, *, wait: wire.Until = "launched", timeout: float = _WAIT
    ) -> wire.Instance:
        """Attach a volume."""
        return await self._ask("PUT", _path(key, "volumes"), wait, timeout, body=request)

    async def detach(
        self, key: str, volume: str, *, wait: wire.Until = "launched", timeout: float = _WAIT
    ) -> wire.Instance:
        """Detach a volume."""
        return await self._ask("DELETE", _path(key, "volumes", volume), wait, timeout)

    async def snapshot(
        self, key: str, request: wire.CreateSnapshot | None = None, *, wait: wire.Until = "launched",
        timeout: float = _WAIT, idempotency_key: str = "",
    ) -> wire.Snapshot:  # fmt: skip
        """Take a snapshot. With an idempotency key, a repeat answers with the first one's."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        params: Params = {"wait": wait, "timeout": timeout}
        body, patience = request or wire.CreateSnapshot(), timeout + _ON_THE_WAY
        return await self._link.ask(
            "POST", _path(key, "snapshots"), wire.Snapshot, params=params, body=body, headers=headers, patience=patience
        )

    async def revert(
        self, key: str, snapshot: str, *, wait: wire.Until = "launched", timeout: float = _WAIT
    ) -> wire.Instance:
        """Let it be, stopped, what it was when the snapshot was taken."""
        return await self._ask("POST", _path(key, "revert"), wait, timeout, body=wire.RevertInstance(snapshot=snapshot))

    # -- streams -------------------------------------------------------------------------------------------------

    def exec(self, key: str, request: wire.ExecRequest) -> AbstractAsyncContextManager[Exec]:
        """Run a command."""
        return open_exec(self._link, key, request)

    def console(self, key: str) -> AbstractAsyncContextManager[Console]:
        """The serial console."""
        return open_console(self._link, key)

    async def logs(self, key: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[wire.LogRecord]:
        """The workload's output; with `follow`, until it has ended for good."""
        params: Params = {"follow": follow, "tail": tail}
        async with self._link.stream("GET", _path(key, "logs"), params=params) as answer:
            async for line in answer.aiter_lines():
                yield wire.LogRecord.model_validate_json(line)

    async def vmm_log(self, key: str) -> AsyncIterator[bytes]:
        """The hypervisor's own words."""
        async with self._link.stream("GET", _path(key, "vmm-log")) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk


def _path(*parts: str) -> str:
    return "/instances/" + "/".join(map(part, parts))
