"""Users with a key of their own, who call this API."""

from __future__ import annotations

from dataclasses import dataclass

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api

PASSWORD = "secret"


@dataclass(frozen=True)
class Someone:
    """A user: its key here, its name, and what it calls with."""

    key: int
    name: str
    api: Api


async def someone(api: Api, **more: object) -> Someone:
    """A new user, who may do nothing yet."""
    name = fresh("user")
    key = await api.made("users", name=name, password=PASSWORD, **more)
    made = await api.post("user_api_keys", user=key, name="k", expires_type="never")
    return Someone(key, name, Api(api.http, {"Authorization": f"Bearer {made['response']['private_key']}"}))


async def boss_of(served: Served, api: Api, *actions: str) -> tuple[str, Someone]:
    """A new project, and a user who acts and may do that in it; by default everything."""
    made = await served.http.post("/api/v1/projects", json={"name": fresh("p")})
    project = str(made.json()["id"])
    name = fresh("boss")
    told = {"name": name, "password": PASSWORD, "project": project}
    assert (await served.http.post("/api/v1/users", json=told)).status_code == 201
    grant = {"user": name, "project": project, "actions": actions or ("*",)}
    assert (await served.http.post("/api/v1/grants", json=grant)).status_code == 200
    found = await api.get("users", filter=f"name eq '{name}'", fields="$key")
    made = await api.http.request(
        "POST", "/api/v4/user_api_keys", json={"user": found[0]["$key"], "name": "k"}, headers=api.headers
    )
    secret = made.json()["response"]["private_key"]
    return project, Someone(found[0]["$key"], name, Api(api.http, {"Authorization": f"Bearer {secret}"}))
