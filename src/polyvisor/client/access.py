"""Who may do what: sessions, projects, users, grants, keys, the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from polyvisor.client.link import Link, part
from polyvisor.wire import access as wire


class Sessions:
    """Logging in and out."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def login(self, request: wire.Login) -> wire.LoggedIn:
        """A token, to be used as an API key is."""
        return await self._link.ask("POST", "/sessions", wire.LoggedIn, body=request)

    async def logout(self) -> None:
        """The token that this client uses holds no more."""
        await self._link.tell("DELETE", "/sessions")


class Projects:
    """`key` is an id or a path of names."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateProject) -> wire.Project:
        """A new one below another."""
        return await self._link.ask("POST", "/projects", wire.Project, body=request)

    async def list(self) -> Sequence[wire.Project]:
        """Those that may be seen."""
        return (await self._link.ask("GET", "/projects", wire.ProjectList)).items

    async def get(self, key: str) -> wire.Project:
        """One, with what it and those below it hold."""
        return await self._link.ask("GET", f"/projects/{quote(key)}", wire.Project)

    async def update(self, key: str, request: wire.UpdateProject) -> wire.Project:
        """Another name or other quotas."""
        return await self._link.ask("PATCH", f"/projects/{quote(key)}", wire.Project, body=request)

    async def delete(self, key: str, *, force: bool = False) -> None:
        """Refused while something is in it, unless `force`."""
        await self._link.tell("DELETE", f"/projects/{quote(key)}", params={"force": force}, patience=None)


class Users:
    """`key` is an id or a name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateUser) -> wire.User:
        """Who may do nothing yet."""
        return await self._link.ask("POST", "/users", wire.User, body=request)

    async def list(self) -> Sequence[wire.User]:
        """Every one."""
        return (await self._link.ask("GET", "/users", wire.UserList)).items

    async def get(self, key: str) -> wire.User:
        """One user."""
        return await self._link.ask("GET", f"/users/{part(key)}", wire.User)

    async def update(self, key: str, request: wire.UpdateUser) -> wire.User:
        """Another password, project or standing."""
        return await self._link.ask("PATCH", f"/users/{part(key)}", wire.User, body=request)

    async def delete(self, key: str) -> None:
        """With its grants, keys and sessions."""
        await self._link.tell("DELETE", f"/users/{part(key)}")


class Grants:
    """What users may do where."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def assign(self, request: wire.GrantRequest) -> wire.Membership:
        """What the user may do there now."""
        return await self._link.ask("POST", "/grants", wire.Membership, body=request)

    async def list(self, user: str | None = None, project: str | None = None) -> Sequence[wire.Membership]:
        """Of a user or on a project; without either, one's own."""
        params = {"user": user, "project": project}
        return (await self._link.ask("GET", "/grants", wire.MembershipList, params=params)).items

    async def revoke(self, user: str, project: str, actions: Sequence[str] | None = None) -> wire.Membership:
        """What is left of what was granted there; without `actions` nothing."""
        params = {"user": user, "project": project, "action": actions}
        return await self._link.ask("DELETE", "/grants", wire.Membership, params=params)


class Keys:
    """API keys."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateKey) -> wire.CreatedKey:
        """The key, told this once, and its record."""
        return await self._link.ask("POST", "/keys", wire.CreatedKey, body=request)

    async def list(self) -> Sequence[wire.ApiKey]:
        """One's own; for an operator all."""
        return (await self._link.ask("GET", "/keys", wire.ApiKeyList)).items

    async def delete(self, key: str) -> None:
        """By id or name."""
        await self._link.tell("DELETE", f"/keys/{part(key)}")


class SshKeys:
    """Public keys for the SSH gateway."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, request: wire.AddSshKey) -> wire.SshKey:
        """The caller's from now on."""
        return await self._link.ask("POST", "/ssh-keys", wire.SshKey, body=request)

    async def list(self) -> Sequence[wire.SshKey]:
        """One's own; for an operator all."""
        return (await self._link.ask("GET", "/ssh-keys", wire.SshKeyList)).items

    async def remove(self, id: int) -> None:
        """By its number."""
        await self._link.tell("DELETE", f"/ssh-keys/{id}")


class Audit:
    """The audit log."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(
        self, wanted: Mapping[str, str | None] | None = None, *, before: int | None = None, limit: int = 100
    ) -> wire.AuditPage:
        """The latest entries. `wanted`: who, action, subject, outcome, since, until."""
        params = {**(wanted or {}), "before": before, "limit": limit}
        return await self._link.ask("GET", "/audit", wire.AuditPage, params=params)
