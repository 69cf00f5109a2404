"""ingress: create, ls, show, rm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Ingress, Rule

app = typer.Typer(help="Which HTTP requests to this host are answered by which VM.", no_args_is_help=True)


@app.command()
def create(  # noqa: PLR0913 - typer's way to declare options
    name: Annotated[str, typer.Argument(metavar="I")],
    rule: Annotated[list[str], typer.Option("-r", "--rule", metavar="HOST[:PORT]=VM:PORT", help="Can be given again.")],
    tls: Annotated[bool, typer.Option("--tls", help="The server ends TLS for all of them.")] = False,
    redirect: Annotated[bool, typer.Option("--redirect", help="Send who asks at port 80 to TLS.")] = False,
    guard: Annotated[str, typer.Option(metavar="HEADER=FILE", help="Only requests with what is in FILE.")] = "",
    label: Annotated[list[str], typer.Option("-l", "--label", metavar="K=V")] = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Lead requests for HOST at PORT (80) of this host to a port of a VM.

    HOST may begin with a capture: `{vm}.example.com={vm}:8000`. Who asks for a VM in standby wakes it.
    """
    rules = [_rule(text) | {"tls": tls, "redirect": redirect} for text in rule]
    if guard:
        header, _, file = guard.partition("=")
        found = {"header": header, "value": parse.read(Path(file), "--guard").strip()}
        rules = [one | {"guard": found} for one in rules]

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateIngress

        labels = parse.pairs(label, "--label")
        wanted = CreateIngress.model_validate({"name": name, "rules": rules, "labels": labels})
        made = await client.ingresses.create(wanted)
        if as_json:
            show.document(made)
        else:
            show.say(made.name)

    talk(work, as_json=as_json)


def _rule(text: str) -> dict[str, Any]:
    source, equals, target = text.partition("=")
    host, _, port = source.partition(":")
    instance, _, inner = target.rpartition(":")
    if not equals or not instance or not inner.isdecimal() or (port and not port.isdecimal()):
        raise typer.BadParameter(f"{text!r}: must be HOST[:PORT]=VM:PORT", param_hint="--rule")
    return {"hostname": host, "port": int(port or 80), "instance": instance, "target_port": int(inner)}


@app.command()
def ls(as_json: Json = False) -> None:
    """List ingresses, oldest first, a line for each rule."""

    async def work(client: Client) -> None:
        found = [one async for one in client.ingresses.list()]
        if as_json:
            show.documents(found)
            return
        rows = [[one.name, *_row(rule), show.age(one.created)] for one in found for rule in one.rules]
        show.table(("NAME", "ASKED FOR", "VM", "PORT", "GUARD", "AGE"), rows)

    talk(work, as_json=as_json)


def _row(rule: Rule) -> list[str]:
    return [_url(rule), rule.instance, str(rule.target_port), rule.guard or ""]


def _url(rule: Rule) -> str:
    usual = 443 if rule.tls else 80
    port = "" if rule.port == usual else f":{rule.port}"
    return f"{'https' if rule.tls else 'http'}://{rule.hostname}{port}"


@app.command("show")
def show_(name: Annotated[str, typer.Argument(metavar="I")], as_json: Json = False) -> None:
    """An ingress and its rules."""

    async def work(client: Client) -> None:
        _say(await client.ingresses.get(name), as_json)

    talk(work, as_json=as_json)


def _say(one: Ingress, as_json: bool) -> None:
    if as_json:
        show.document(one)
        return
    show.say(f"{one.name} {one.id}")
    for rule in one.rules:
        more = ["redirected from port 80"] if rule.redirect else []
        more += [f"guarded by {rule.guard}"] if rule.guard else []
        rest = f" ({', '.join(more)})" if more else ""
        show.say(f"  {_url(rule)} -> {rule.instance}:{rule.target_port}{rest}")


@app.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="I...")], as_json: Json = False) -> None:
    """Lead nobody by these any more. VMs stay."""

    async def work(client: Client) -> int:
        from polyvisor.client import Refused

        failed = 0
        for name in names:
            try:
                await client.ingresses.delete(name)
                show.say(name)
            except Refused as refusal:
                show.complain(refusal.problem, as_json)
                failed = 1
        return failed

    talk(work, as_json=as_json)
