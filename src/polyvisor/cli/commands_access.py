"""user, project, grant, key, quota, audit, login: who may do what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.access import Amounts, ApiKey, AuditEntry, Membership, Project, User

users = typer.Typer(help="People and programs that log in.", no_args_is_help=True)
projects = typer.Typer(help="Owners of things, in a tree.", no_args_is_help=True)
grants = typer.Typer(help="What users may do in which projects.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
quotas = typer.Typer(help="What projects may hold.", no_args_is_help=True)

UserArg = Annotated[str, typer.Argument(metavar="USER", help="A user's id or name.")]
ProjectArg = Annotated[str, typer.Argument(metavar="PROJECT", help="A project's id, or its path such as team/ci.")]
ActionsArg = Annotated[list[str], typer.Argument(metavar="ACTION...", help="Such as instance.view, '*.view' or '*'.")]
Password = Annotated[
    str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for when left out.")
]
Count = Annotated[int | None, typer.Option(min=0, help="0: no limit.")]
Size = Annotated[str | None, typer.Option(help="Such as 64G; 0: no limit.")]


# -- users ---------------------------------------------------------------------------------------------------------


@users.command("create")
def create_user(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    password: Password,
    project: Annotated[str, typer.Option(help="Where the user acts; by default where you do.")] = "",
    operator: Annotated[bool, typer.Option("--operator", help="May do everything everywhere.")] = False,
    as_json: Json = False,
) -> None:
    """Make a user, who may do nothing until something is granted."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import CreateUser

        wanted = CreateUser(name=name, password=password, project=project, operator=operator)
        made = await client.users.create(wanted)
        show.document(made) if as_json else show.say(made.name)

    talk(work, as_json=as_json)


@users.command("ls")
def list_users(as_json: Json = False) -> None:
    """List users."""

    async def work(client: Client) -> None:
        found = await client.users.list()
        if as_json:
            show.documents(found)
        else:
            show.table(("NAME", "ID", "PROJECT", "OPERATOR", "AGE"), map(_user, found))

    talk(work, as_json=as_json)


def _user(user: User) -> list[str]:
    return [user.name, user.id, user.project, "yes" if user.operator else "", show.age(user.created)]


@users.command("passwd")
def passwd(name: UserArg, password: Password, as_json: Json = False) -> None:
    """Set a password. It ends the user's sessions."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import UpdateUser

        made = await client.users.update(name, UpdateUser(password=password))
        show.document(made) if as_json else show.say(made.name)

    talk(work, as_json=as_json)


@users.command("rm")
def remove_user(name: UserArg, as_json: Json = False) -> None:
    """Delete a user with its grants, keys and sessions."""

    async def work(client: Client) -> None:
        await client.users.delete(name)

    talk(work, as_json=as_json)


# -- projects and quotas -------------------------------------------------------------------------------------------


@projects.command("create")
def create_project(
    path: Annotated[str, typer.Argument(metavar="NAME", help="A name, or a path such as team/ci.")],
    as_json: Json = False,
) -> None:
    """Make a project below the one before its name, or below the one that you act in."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import CreateProject

        parent, _, name = path.strip("/").rpartition("/")
        made = await client.projects.create(CreateProject(name=name, parent=parent))
        show.document(made) if as_json else show.say(made.path)

    talk(work, as_json=as_json)


@projects.command("ls")
def list_projects(as_json: Json = False) -> None:
    """List projects."""

    async def work(client: Client) -> None:
        found = await client.projects.list()
        if as_json:
            show.documents(found)
        else:
            show.table(("PATH", "ID", "AGE"), ([one.path, one.id, show.age(one.created)] for one in found))

    talk(work, as_json=as_json)


@projects.command("rm")
def remove_project(
    key: ProjectArg,
    force: Annotated[bool, typer.Option("--force", help="With all that is in it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a project."""

    async def work(client: Client) -> None:
        await client.projects.delete(key, force=force)

    talk(work, as_json=as_json)


@quotas.command("show")
def show_quota(key: ProjectArg, as_json: Json = False) -> None:
    """What a project and those below it may hold, and what they hold."""

    async def work(client: Client) -> None:
        _say_quota(await client.projects.get(key), as_json)

    talk(work, as_json=as_json)


@quotas.command("set")
def set_quota(  # noqa: PLR0913 - one for each limit
    key: ProjectArg,
    instances: Count = None,
    vcpus: Count = None,
    memory: Size = None,
    disk: Size = None,
    snapshots: Count = None,
    as_json: Json = False,
) -> None:
    """Limit what a project and those below it may hold together. What is left out stays."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import QuotasRequest, UpdateProject

        wanted = QuotasRequest(
            instances=instances, vcpus=vcpus, memory=_size(memory), disk=_size(disk), snapshots=snapshots
        )
        await client.projects.update(key, UpdateProject(quotas=wanted))
        _say_quota(await client.projects.get(key), as_json)

    talk(work, as_json=as_json)


def _size(text: str | None) -> str | int | None:
    return 0 if text == "0" else text


def _say_quota(project: Project, as_json: bool) -> None:
    if as_json:
        show.document(project)
        return
    limits, used = _amounts(project.quotas, "none"), _amounts(project.usage or project.quotas, "0")
    names = ("instances", "vcpus", "memory", "disk", "snapshots")
    show.table(("OF", "USED", "LIMIT"), (list(row) for row in zip(names, used, limits, strict=True)))


def _amounts(of: Amounts, nothing: str) -> list[str]:
    counts = [str(of.instances), str(of.vcpus), show.size(of.memory), show.size(of.disk), str(of.snapshots)]
    values = (of.instances, of.vcpus, of.memory, of.disk, of.snapshots)
    return [text if value else nothing for text, value in zip(counts, values, strict=True)]


# -- grants --------------------------------------------------------------------------------------------------------


@grants.command("add")
def add_grant(user: UserArg, project: ProjectArg, actions: ActionsArg, as_json: Json = False) -> None:
    """Let a user do that in a project and all below it."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import GrantRequest

        found = await client.grants.assign(GrantRequest(user=user, project=project, actions=actions))
        _say_grants([found], as_json)

    talk(work, as_json=as_json)


@grants.command("ls")
def list_grants(
    user: Annotated[str | None, typer.Option(help="Of this user.")] = None,
    project: Annotated[str | None, typer.Option(help="On this project.")] = None,
    as_json: Json = False,
) -> None:
    """What a user was granted, or who was granted what on a project."""

    async def work(client: Client) -> None:
        _say_grants(list(await client.grants.list(user, project)), as_json)

    talk(work, as_json=as_json)


@grants.command("rm")
def remove_grant(
    user: UserArg,
    project: ProjectArg,
    actions: Annotated[list[str] | None, typer.Argument(metavar="[ACTION...]", help="None: all.")] = None,
    as_json: Json = False,
) -> None:
    """Take it away again."""

    async def work(client: Client) -> None:
        _say_grants([await client.grants.revoke(user, project, actions or None)], as_json)

    talk(work, as_json=as_json)


def _say_grants(found: list[Membership], as_json: bool) -> None:
    if as_json:
        show.documents(found)
    else:
        show.table(("USER", "PROJECT", "MAY"), ([one.user, one.project, " ".join(one.actions)] for one in found))


# -- keys, sessions, the log ---------------------------------------------------------------------------------------


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    project: Annotated[str, typer.Option(help="Where it acts; by default where you do.")] = "",
    scope: Annotated[list[str] | None, typer.Option("--scope", metavar="ACTION", help="May be given often.")] = None,
    lifetime: Annotated[str | None, typer.Option(help="How long it holds, such as 90m; left out: for ever.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key, and print it: it is told this once."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import CreateKey

        wanted = CreateKey(name=name, project=project, scopes=scope or None, lifetime=lifetime)
        made = await client.keys.create(wanted)
        show.document(made) if as_json else show.say(made.key)

    talk(work, as_json=as_json)


@keys.command("ls")
def list_keys(as_json: Json = False) -> None:
    """List API keys."""

    async def work(client: Client) -> None:
        found = await client.keys.list()
        if as_json:
            show.documents(found)
        else:
            show.table(("NAME", "ID", "BEGINS", "PROJECT", "MAY", "USED", "AGE"), map(_key, found))

    talk(work, as_json=as_json)


def _key(key: ApiKey) -> list[str]:
    may = "as its user" if key.scopes is None else " ".join(key.scopes)
    used = show.age(key.used) if key.used else ""
    return [key.name, key.id, key.prefix, key.project, may, used, show.age(key.created)]


@keys.command("rm")
def remove_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id or name.")], as_json: Json = False
) -> None:
    """Delete an API key."""

    async def work(client: Client) -> None:
        await client.keys.delete(key)

    talk(work, as_json=as_json)


def login(
    name: Annotated[str, typer.Argument(metavar="USER")],
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, help="Asked for when left out.")],
    lifetime: Annotated[str, typer.Option(help="Such as 30m.")] = "12h",
    as_json: Json = False,
) -> None:
    """Log in, and print a token for POLYVISOR_API_KEY."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import Login

        made = await client.sessions.login(Login(name=name, password=password, lifetime=lifetime))
        show.document(made) if as_json else show.say(made.token)

    talk(work, as_json=as_json)


def audit(  # noqa: PLR0913 - what can be looked for
    who: Annotated[str, typer.Option(help="By this user or key.")] = "",
    action: Annotated[str, typer.Option(help="Such as instance.delete.")] = "",
    subject: Annotated[str, typer.Option(help="The id of what it was done to.")] = "",
    outcome: Annotated[str, typer.Option(help="ok, or the kind of an error.")] = "",
    since: Annotated[str | None, typer.Option(help="A time such as 2026-01-31T12:00:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    as_json: Json = False,
) -> None:
    """Who did what, newest first."""

    async def work(client: Client) -> None:
        wanted = {"who": who, "action": action, "subject": subject, "outcome": outcome, "since": since}
        page = await client.audit.list(wanted, limit=limit)
        if as_json:
            show.documents(page.items)
        else:
            show.table(("AT", "WHO", "FROM", "ACTION", "SUBJECT", "OUTCOME"), map(_entry, page.items))

    talk(work, as_json=as_json)


def _entry(entry: AuditEntry) -> list[str]:
    outcome = entry.outcome + (f": {entry.detail}" if entry.detail else "")
    return [f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.who, entry.source, entry.action, entry.subject, outcome]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, group in (("user", users), ("project", projects), ("grant", grants), ("key", keys), ("quota", quotas)):
        app.add_typer(group, name=name)
    for command in (audit, login):
        app.command()(command)
