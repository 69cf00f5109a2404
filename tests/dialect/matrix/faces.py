"""The same machines through each API: made, looked at, switched off and on, deleted. Ids are ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from dialect.served import fresh

OK = frozenset({200, 201, 202, 204})


class Stumbled(AssertionError):
    """An API answered with a 5xx."""


@dataclass
class Api:
    """One API as the operator uses it; `on` and `off` are its words for a machine that runs and one that does not."""

    http: httpx.AsyncClient
    facts: Mapping[str, Any]
    on: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()

    async def ask(self, line: str, body: object = None, **query: Any) -> httpx.Response:
        """`METHOD /path`. :raise Stumbled:"""
        method, path = line.split()
        answer = await self.http.request(method, path, json=body, params=query or None, headers=self.headers())
        if answer.status_code >= 500:
            raise Stumbled(f"{type(self).__name__}: {line} {body}: {answer.status_code} {answer.text[:300]}")
        return answer

    async def ok(self, line: str, body: object = None, **query: Any) -> Any:
        """What a call that succeeds says."""
        answer = await self.ask(line, body, **query)
        assert answer.status_code in OK, f"{line}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None

    def headers(self) -> dict[str, str]:
        """Who asks."""
        return {"Authorization": f"Bearer {self.facts['api_key']}"}

    async def make(self) -> str:
        """A new machine; its id."""
        raise NotImplementedError

    async def words(self) -> dict[str, str]:
        """Every machine's state, by id."""
        raise NotImplementedError

    async def word(self, id: str) -> str | None:
        """A machine's state; None: there is none."""
        raise NotImplementedError

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """Ask that it be on, or off."""
        raise NotImplementedError

    async def delete(self, id: str) -> httpx.Response:
        """Ask that it be gone."""
        raise NotImplementedError


@dataclass
class Native(Api):
    """Our own."""

    on: frozenset[str] = frozenset({"running"})
    off: frozenset[str] = frozenset({"stopped", "suspended"})

    async def make(self) -> str:
        """See Api."""
        return str((await self.ok("POST /api/v1/instances", {"image": "busybox", "name": fresh("n")}))["id"])

    async def words(self) -> dict[str, str]:
        """See Api."""
        found = (await self.ok("GET /api/v1/instances", limit=1000))["items"]
        return {one["id"]: one["state"] for one in found if one["state"] != "deleting"}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask(f"GET /api/v1/instances/{id}")
        told = None if answer.status_code == 404 else str(answer.json()["state"])
        return None if told == "deleting" else told

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        return await self.ask(
            f"POST /api/v1/instances/{id}/{'start' if on else 'stop'}", None if on else {"force": True}
        )

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask(f"DELETE /api/v1/instances/{id}", force="true")

    async def settled(self) -> bool:
        """Whether nothing is under way."""
        found = (await self.ok("GET /api/v1/instances", limit=1000))["items"]
        return all(one["operation"] is None for one in found)


@dataclass
class Hypeman(Api):
    """Words are of `GET /instances`."""

    on: frozenset[str] = frozenset({"Running"})
    off: frozenset[str] = frozenset({"Stopped", "Standby"})

    async def make(self) -> str:
        """See Api."""
        return str((await self.ok("POST /instances", {"image": "busybox", "name": fresh("h")}))["id"])

    async def words(self) -> dict[str, str]:
        """See Api."""
        return {one["id"]: one["state"] for one in await self.ok("GET /instances")}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask(f"GET /instances/{id}")
        return None if answer.status_code == 404 else str(answer.json()["state"])

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        return await self.ask(f"POST /instances/{id}/{'start' if on else 'stop'}", {} if on else None)

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask(f"DELETE /instances/{id}")


@dataclass
class Instavm(Api):
    """Off is suspended: it has no other."""

    on: frozenset[str] = frozenset({"active"})
    off: frozenset[str] = frozenset({"stopped", "suspended"})

    async def make(self) -> str:
        """See Api."""
        return str((await self.ok("POST /v1/vms", {}, wait="false"))["vm_id"]).split("-")[1]

    async def words(self) -> dict[str, str]:
        """See Api."""
        found = await self.ok("GET /v1/vms/")
        return {one["vm_id"].split("-")[1]: one["status"] for one in found if one["status"] != "terminated"}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask(f"GET /v1/vms/vmid-{id}")
        told = None if answer.status_code == 404 else str(answer.json()["status"])
        return None if told == "terminated" else told

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        return await self.ask(f"POST /v1/vms/vmid-{id}/{'resume' if on else 'suspend'}")

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask(f"DELETE /v1/vms/vmid-{id}")


@dataclass
class Hanzo(Api):
    """The root project is the organization."""

    on: frozenset[str] = frozenset({"running"})
    off: frozenset[str] = frozenset({"stopped"})

    async def make(self) -> str:
        """See Api."""
        body = {"name": fresh("z"), "plan": "nano", "region": "us-east", "os": "busybox"}
        made = await self.ok("POST /api/vm.launch", body | {"organizationId": f"org_{self.facts['project']}"})
        return str(made["result"]["data"]["id"]).removeprefix("vm_")

    async def words(self) -> dict[str, str]:
        """See Api."""
        found = await self.ok("GET /api/vm.all", organizationId=f"org_{self.facts['project']}")
        return {one["id"].removeprefix("vm_"): one["status"] for one in found["result"]["data"]}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask("GET /api/vm.one", vmId=f"vm_{id}")
        return None if answer.status_code == 404 else str(answer.json()["result"]["data"]["status"])

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        return await self.ask(f"POST /api/vm.{'start' if on else 'stop'}", {"vmId": f"vm_{id}"})

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask("DELETE /api/vm.destroy", {"vmId": f"vm_{id}"})


@dataclass
class ByName(Api):
    """APIs that call machines by numbers of their own, which are found by name; `known` remembers them."""

    known: dict[str, int] = field(default_factory=dict)

    async def name(self, id: str) -> str:
        """What we call it."""
        answer = await self.ask(f"GET /api/v1/instances/{id}")
        return str(answer.json()["name"]) if answer.status_code == 200 else ""

    async def id(self, name: str) -> str:
        """The id of what we call so."""
        return str((await self.ok(f"GET /api/v1/instances/{name}"))["id"])


@dataclass
class Velocity(ByName):
    """Machines are made off, and boot nothing. A stop is by force."""

    on: frozenset[str] = frozenset({"RUNNING"})
    off: frozenset[str] = frozenset({"STOPPED", "PAUSED"})

    async def make(self) -> str:
        """See Api."""
        body = {
            "gid": 0, "name": fresh("v"), "cpus": 1, "memory_mib": 128, "displays": [], "media": [], "nics": [],
            "rosetta": False, "autostart": False,
        }  # fmt: skip
        number = (await self.ok("PUT /v/vm/efi", body))["vmid"]
        id = await self.id(body["name"])  # type: ignore[arg-type]  # a text
        self.known[id] = number
        return id

    async def _listed(self) -> dict[str, tuple[int, str]]:
        return {
            one["name"]: (one["vmid"], one["state"]) for one in (await self.ok("POST /v/vm/list", {"gid": 0}))["vms"]
        }

    async def number(self, id: str) -> int:
        """A machine's; 0: it is not there."""
        if id not in self.known:
            name = await self.name(id)
            self.known[id] = (await self._listed()).get(name, (0, ""))[0]
        return self.known[id]

    async def words(self) -> dict[str, str]:
        """See Api."""
        listed = await self._listed()
        ours = {one["name"]: one["id"] for one in (await self.ok("GET /api/v1/instances", limit=1000))["items"]}
        return {ours[name]: state for name, (_, state) in listed.items() if name in ours}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask("POST /v/vm/state", {"vmid": await self.number(id)})
        return str(answer.json()["state"]) if answer.status_code == 200 else None

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        body = {"vmid": await self.number(id), "state": "RUNNING" if on else "STOPPED", "force": not on}
        return await self.ask("PUT /v/vm/state", body)

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask("DELETE /v/vm", {"vmid": await self.number(id)})


@dataclass
class Vergeos(ByName):
    """Machines are made off. A stop is a kill; only what is off is deleted."""

    on: frozenset[str] = frozenset({"running"})
    off: frozenset[str] = frozenset({"stopped", "hibernated", "initializing"})

    async def make(self) -> str:
        """See Api."""
        name = fresh("g")
        key = (await self.ok("POST /api/v4/vms", {"name": name, "cpu_cores": 1, "ram": 256, "enabled": True}))["$key"]
        found = {one["name"]: one["id"] for one in (await self.ok("GET /api/v1/instances", limit=1000))["items"]}
        self.known[found[name]] = int(key)
        return str(found[name])

    async def _listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.ok(
            "GET /api/v4/vms", fields="$key,name,machine#status#status as status"
        )
        return found

    async def number(self, id: str) -> int:
        """Likewise."""
        if id not in self.known:
            name = await self.name(id)
            self.known[id] = next((int(one["$key"]) for one in await self._listed() if one["name"] == name), 0)
        return self.known[id]

    async def words(self) -> dict[str, str]:
        """See Api."""
        ours = {one["name"]: one["id"] for one in (await self.ok("GET /api/v1/instances", limit=1000))["items"]}
        return {ours[one["name"]]: one["status"] for one in await self._listed() if one["name"] in ours}

    async def word(self, id: str) -> str | None:
        """See Api."""
        answer = await self.ask(f"GET /api/v4/vms/{await self.number(id)}", fields="machine#status#status as status")
        return str(answer.json()["status"]) if answer.status_code == 200 else None

    async def switch(self, id: str, *, on: bool) -> httpx.Response:
        """See Api."""
        return await self.ask(
            "POST /api/v4/vm_actions", {"vm": await self.number(id), "action": "poweron" if on else "kill"}
        )

    async def delete(self, id: str) -> httpx.Response:
        """See Api."""
        return await self.ask(f"DELETE /api/v4/vms/{await self.number(id)}")


APIS = (Native, Hypeman, Instavm, Hanzo, Velocity, Vergeos)
