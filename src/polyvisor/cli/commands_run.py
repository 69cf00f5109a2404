"""run: an instance from an image, and in the foreground its output and its exit code."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyvisor.cli import parse, pulling, show, terminal
from polyvisor.cli.commands_instances import until
from polyvisor.cli.commands_logs import stream
from polyvisor.cli.options import Compress, CompressDelay, Egress, Env, Health, Json, StandbyAfter, Trailing, Words
from polyvisor.cli.session import OURS, status_of, talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import CreateInstance, Image, Instance

_LAUNCH = 600.0  # the first start of all makes a kernel and an image
_Many = list[str]
Ports = Annotated[_Many, typer.Option("-p", "--port", metavar="[HOST:]GUEST[/udp]", help="A host port into it.")]
Rates = Annotated[
    _Many,
    typer.Option("--rate", metavar="WHAT=BYTES", help="At most so many a second, of disk, download or upload."),
]
NoTemplate = Annotated[bool, typer.Option("--no-template", help="Boot it, also where a template is at hand.")]


def run(  # noqa: PLR0913 - every flag is a parameter
    image: Annotated[str, typer.Argument(metavar="IMAGE")],
    words: Words = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Print its id and leave it running.")] = False,
    name: Annotated[str | None, typer.Option(help="A name; else its id is its name.")] = None,
    volume: Annotated[_Many, typer.Option("-v", "--volume", metavar="VOL:PATH[:ro[+SIZE]]", help="Mount one.")] = [],  # noqa: B006 - typer copies it
    env: Env = [],  # noqa: B006 - typer copies it
    env_file: Annotated[list[Path], typer.Option(help="Variables, one K=V a line.")] = [],  # noqa: B006 - typer copies it
    vcpus: Annotated[int, typer.Option(help="How many vCPUs.")] = 1,
    memory: Annotated[str | None, typer.Option("-m", "--memory", help="Such as 512M.")] = None,
    disk: Annotated[str | None, typer.Option(help="Such as 10G.")] = None,
    firmware: Annotated[str | None, typer.Option(help="bios or uefi, for disk images.")] = None,
    user: Annotated[str, typer.Option("-u", "--user", help="As whom the command runs; whose the SSH keys are.")] = "",
    cwd: Annotated[str, typer.Option("-w", "--cwd", "--workdir", help="Where the command starts.")] = "",
    hostname: Annotated[str, typer.Option(help="Else its name.")] = "",
    port: Ports = [],  # noqa: B006 - typer copies it
    restart: Annotated[str, typer.Option(help="never, on-failure[:N] or always.")] = "never",
    remove: Annotated[bool, typer.Option("--rm", help="Delete it when it has ended.")] = False,
    label: Annotated[_Many, typer.Option("-l", "--label", metavar="K=V")] = [],  # noqa: B006 - typer copies it
    lifetime: Annotated[str | None, typer.Option(help="Delete it after that long, such as 1h.")] = None,
    ssh_key: Annotated[_Many, typer.Option(metavar="KEY|FILE", help="A public key, for disk images.")] = [],  # noqa: B006 - typer copies it
    user_data: Annotated[Path | None, typer.Option(help="A cloud-init file, for disk images.")] = None,
    autostart: Annotated[bool, typer.Option("--autostart", help="Start it with the server.")] = False,
    grace: Annotated[str, typer.Option(help="How long it may take to stop.")] = "30s",
    no_template: NoTemplate = False,
    compress: Compress = None,
    compress_delay: CompressDelay = None,
    standby_after: StandbyAfter = None,
    rate: Rates = [],  # noqa: B006 - typer copies it
    health: Health = None,
    egress: Egress = None,
    no_network: Annotated[bool, typer.Option("--no-network", help="Without a network.")] = False,
    entrypoint: Annotated[str | None, typer.Option(help='Instead of the image\'s; "" for none.')] = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Be the command's stdin.")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="Give the command a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Make an instance of IMAGE and start it.

    In the foreground its output is shown (stdout and stderr apart) until it ends, and its exit code is ours, 128 + N
    for signal N. An image without a command, such as busybox, has no output to wait for: run returns once it is
    ready, and it runs on. With -i or -t the command (else the image's, else a shell) runs on this terminal, and the
    instance is stopped when it ends. Ctrl-C stops the instance."""
    fields = {
        "image": image, "name": name, "vcpus": vcpus, "memory": memory, "disk": disk, "firmware": firmware,
        "hostname": hostname, "network": not no_network, "autostart": autostart, "grace": grace, "lifetime": lifetime,
        "volumes": [parse.mount(text) for text in volume], "ports": [parse.port(text) for text in port],
        "restart": parse.restart(restart), "labels": parse.pairs(label, "--label"), "template": not no_template,
        "compression": parse.compression(compress, policy=True), "compression_delay": compress_delay,
        "standby": standby_after and {"after": standby_after}, **parse.policies(health, egress, rate),
    }  # fmt: skip
    start = _Start(
        fields, parse.command(words), parse.entrypoint(entrypoint), parse.environment(env, env_file), cwd, user,
        [parse.public_key(text) for text in ssh_key],
        parse.read(user_data, "--user-data") if user_data else "", interactive, tty,
    )  # fmt: skip
    _check(detach, terminal=interactive or tty, as_json=as_json, remove=remove)
    if detach:
        talk(lambda client: start.detached(client, as_json), as_json=as_json, failure=OURS)
    talk(lambda client: start.foreground(client, remove), failure=OURS)


def _check(detach: bool, *, terminal: bool, as_json: bool, remove: bool) -> None:
    if detach and terminal:
        raise typer.BadParameter("a detached command has no terminal", param_hint="--detach")
    if as_json and not detach:
        raise typer.BadParameter("the output of the command is its own; use --detach", param_hint="--json")
    if detach and remove:
        raise typer.BadParameter("nobody would be there to delete it; use --lifetime", param_hint="--rm")


@dataclass(frozen=True, slots=True)
class _Start:
    """What was asked; the rest depends on which kind of image it is."""

    fields: dict[str, Any]
    words: list[str]
    entrypoint: list[str] | None
    env: dict[str, str]
    cwd: str
    user: str
    keys: list[str]
    user_data: str
    interactive: bool
    tty: bool

    @property
    def attached(self) -> bool:
        """Whether the command runs on our terminal, and not as the instance's workload."""
        return self.interactive or self.tty

    def request(self, image: Image) -> CreateInstance:
        """What to create."""
        from polyvisor.wire.native import CreateInstance

        fields = dict(self.fields)
        disk = image.kind == "disk"
        if self.keys or self.user_data or (disk and self.user):
            fields["cloud_init"] = {
                "user_data": self.user_data, "ssh_keys": self.keys, "user": self.user if disk else "",
            }  # fmt: skip
        if not disk:
            fields["user"] = self.user
        if self.attached and not disk:
            fields["entrypoint"], fields["command"] = [], []
        elif not self.attached:
            fields["entrypoint"], fields["command"] = self.entrypoint, self.words or None
        return CreateInstance(env=self.env if not (disk and self.attached) else {}, cwd=self.cwd, **fields)

    def argv(self, image: Image) -> list[str]:
        """The command on our terminal."""
        entrypoint = image.entrypoint if self.entrypoint is None else self.entrypoint
        words = self.words or (image.command if self.entrypoint is None else [])
        return [*entrypoint, *words] or ["sh"]

    async def create(self, client: Client) -> tuple[Image, Instance]:
        """The instance, launched. With a key of its own, so that no repeat makes two."""
        image = await pulling.ensure(client, self.fields["image"])
        made = await client.instances.create(
            self.request(image), wait="launched", timeout=_LAUNCH, idempotency_key=secrets.token_hex(16)
        )
        return image, made

    async def detached(self, client: Client, as_json: bool) -> None:
        """Start it and go."""
        _, instance = await self.create(client)
        if as_json:
            show.document(instance)
        else:
            show.say(instance.id)

    async def foreground(self, client: Client, remove: bool) -> int:
        """Start it and stay. A Ctrl-C stops it; what --rm says holds however it ends."""
        image, instance = await self.create(client)
        try:
            if self.attached:
                return await self._on_our_terminal(client, image, instance)
            if not instance.command:
                return await _announce(client, instance)
            await stream(client, instance.id, follow=True)
            return _told(await until(client, instance.id, ["ended"], None))
        except asyncio.CancelledError:
            if not remove and not self.attached:
                await client.instances.stop(instance.id, wait="accepted")
                show.remark(f"{instance.name} is being stopped")
            raise
        finally:
            if remove:
                await client.instances.delete(instance.id, force=True)
            elif self.attached:
                await client.instances.stop(instance.id, wait="accepted")

    async def _on_our_terminal(self, client: Client, image: Image, instance: Instance) -> int:
        user = self.user if image.kind != "disk" else ""
        asked = terminal.request(self.argv(image), env=self.env, cwd=self.cwd, user=user, tty=self.tty)
        return await terminal.carry(client, instance.id, asked, stdin=self.interactive)


async def _announce(client: Client, instance: Instance) -> int:
    """Say that it is up; it has no command whose end could be waited for."""
    found = await until(client, instance.id, ["ready", "ended"], None)
    if not found.ready:
        return _told(found)
    show.remark(f"{found.name} is ready and runs on; `polyvisor shell {found.name}` leads into it")
    return 0


def _told(instance: Instance) -> int:
    """Its exit code, with the reason when that is not its own."""
    if instance.error is not None:
        show.remark(f"{instance.name}: {instance.error.message}")
    return status_of(instance)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Trailing)(run)
