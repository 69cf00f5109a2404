"""Images from archives and registries, used the way a user would: with the command, in real guests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyvisor.access.credentials import new_key
from polyvisor.model.identity import Project, Quotas
from polyvisor.model.ids import ProjectId, mint
from polyvisor.server.wiring import utc_now
from polyvisor.store import open_store
from real.archives import Layer, docker_save, entry, oci_layout
from real.registries import push
from serving import Server

BUSYBOX = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
NET_RAW = b"\x01\x00\x00\x02\x00\x20" + bytes(14)
"""The capability cap_net_raw=ep as the kernel keeps it in an attribute, version 2."""


def shell(*more: tuple[tarfile.TarInfo, bytes]) -> Layer:
    """A layer with a shell, the usual applets, and `more`."""
    applets = ["sh", "cat", "ls", "stat", "id", "env", "find", "sort", "test", "sleep", "pwd", "getfattr", "ping"]
    links = [entry(f"bin/{name}", kind=tarfile.SYMTYPE, linkname="busybox") for name in applets]
    return [entry("bin", kind=tarfile.DIRTYPE, mode=0o755), entry("bin/busybox", BUSYBOX, mode=0o755), *links, *more]


def saved(path: Path, *layers: Layer, **says: Any) -> Path:
    """A `docker save` archive of an image that says `says` of itself."""
    return docker_save(path / f"{uuid.uuid4().hex[:8]}.tar", *layers, says={"Env": ["PATH=/bin"], **says})


def fresh() -> str:
    """A name that no other test has."""
    return "t" + uuid.uuid4().hex[:10]


@contextmanager
def imported(server: Server, archive: Path) -> Iterator[str]:
    """The name of an image made from `archive`; it is gone afterwards."""
    name = fresh()
    assert server.cli("images", "import", name, str(archive), check=True).stdout.decode().strip() == f"{name}:latest"
    yield name
    server.cli("images", "rm", name, check=True)


@contextmanager
def ran(server: Server, image: str, *words: str, flags: tuple[str, ...] = ()) -> Iterator[tuple[int, str, str]]:
    """(exit code, output, name) of a foreground run; the instance is gone afterwards."""
    name = fresh()
    options = ["--name", name, *flags]
    argv = [image, *options, "--", *words] if words else [*options, image]  # without `--` words after it are its own
    done = server.cli("run", *argv, timeout=240)
    try:
        yield done.returncode, done.stdout.decode() + (done.stderr.decode() if done.returncode else ""), name
    finally:
        server.cli("rm", "--force", name, check=True)


def output(server: Server, image: str, *words: str, flags: tuple[str, ...] = ()) -> str:
    """What a run that ends well says."""
    with ran(server, image, *words, flags=flags) as (code, said, _):
        assert code == 0, said
        return said


async def tenant(server: Server, quotas: Quotas | None = None) -> httpx.AsyncClient:
    """A client of somebody who is nobody's operator, in a project of his own."""
    store = await open_store(f"sqlite:///{server.data / 'polyvisor.db'}")
    try:
        project = Project(ProjectId(mint()), fresh(), utc_now(), ProjectId(server.facts["project"]), quotas or Quotas())
        key, record = new_key("tenant", project.id, project.created)
        async with store.write() as unit:
            await unit.identities.add_project(project)
            await unit.identities.add_key(record)
    finally:
        await store.close()
    headers = {"X-API-Key": key}
    return httpx.AsyncClient(base_url=server.facts["url"], headers=headers, timeout=120, trust_env=False)


def pulled(server: Server, name: str) -> Mapping[str, Any]:
    """The image that a pull ends with."""
    found: Mapping[str, Any] = json.loads(server.cli("images", "pull", name, "--json", check=True).stdout)
    return found


def files(server: Server) -> int:
    """How many root file systems there are."""
    return len(list((server.data / "images").glob("*/root.squashfs")))


async def ending(answer: httpx.Response) -> Mapping[str, Any]:
    """The last thing that a pull says, or the refusal in its place."""
    found: Mapping[str, Any] = json.loads(answer.text.splitlines()[-1])
    return found


# -- archives --------------------------------------------------------------------------------------------------------


def test_a_saved_image_runs_a_command_and_its_exit_code_is_kept(base: Server, tmp_path: Path) -> None:
    with imported(base, saved(tmp_path, shell())) as image:
        with ran(base, image, "sh", "-c", "echo hi; exit 3") as (code, said, name):
            assert (code, said.splitlines()[0]) == (3, "hi")
            assert base.cli("wait", name, check=True).stdout == b"3\n"
            assert json.loads(base.cli("inspect", name, "--json", check=True).stdout)["exit"]["code"] == 3
            busy = base.cli("images", "rm", image, "--json")
            assert (busy.returncode, json.loads(busy.stderr)["kind"]) == (1, "Busy")
            assert image in base.cli("images", "ls", check=True).stdout.decode()
        kept = files(base)
    assert files(base) == kept - 1
    assert image not in base.cli("images", "ls", check=True).stdout.decode()


def test_what_the_image_says_of_its_workload_is_honoured(base: Server, tmp_path: Path) -> None:
    people = [
        entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:7:8::/home:/bin/sh\n"),
        entry("etc/group", b"root:x:0:\nweb:x:8:\nmore:x:9:web\n"),
        entry("srv/here", b""),
    ]
    script = 'echo "$0 $* in $(pwd) as $(id -u):$(id -g), $A $EMPTY."'
    says = {
        "Entrypoint": ["sh", "-c", script, "zero"], "Cmd": ["one", "two"], "WorkingDir": "srv", "User": "web",
        "Env": ["PATH=/bin", "A=b=c", "EMPTY=", "FOO.BAR=dotted", "=nameless"],
    }  # fmt: skip
    with imported(base, saved(tmp_path, shell(*people), **says)) as image:
        said = output(base, image)
        assert said == "zero one two in /srv as 7:8, b=c .\n"
        assert "FOO.BAR=dotted\n" in output(base, image, flags=("--entrypoint", "env"))  # a shell would drop it
        assert output(base, image, "three", flags=("-e", "A=mine")).startswith("zero three in /srv as 7:8, mine .\n")
        entry_point = ("--entrypoint", "id", "--user", "0")
        assert output(base, image, flags=entry_point).startswith("uid=0(root) gid=0(root)")


def test_an_image_of_one_static_program_runs(base: Server, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    code = '#include <stdio.h>\nint main(int n, char **v) { printf("%s of %d\\n", v[1], n); return 7; }'
    argv = ["musl-gcc", "-static", "-x", "c", "-o", str(program), "-"]
    subprocess.run(argv, input=code.encode(), check=True, capture_output=True)
    layer = [entry("hello", program.read_bytes(), mode=0o755)]
    with imported(base, saved(tmp_path, layer, Entrypoint=["/hello"], Cmd=["alone"])) as image:
        with ran(base, image) as (ended, said, _):
            assert (ended, said.splitlines()[0]) == (7, "alone of 2")
        with ran(base, image, "with", "words") as (ended, said, _):
            assert (ended, said.splitlines()[0]) == (7, "with of 3")


def test_layers_hide_and_replace_inside_the_guest(base: Server, tmp_path: Path) -> None:
    lower = shell(
        entry("etc/gone", b"x"), entry("var/cache/old", b"x"), entry("var/cache/deep/older", b"x"),
        entry("lib/real/a", b"a"), entry("link", kind=tarfile.SYMTYPE, linkname="lib/real"), entry("same", b"first"),
    )  # fmt: skip
    upper = [
        entry("etc/.wh.gone"), entry("etc/kept", b"k"), entry("var/cache/.wh..wh..opq"), entry("var/cache/new", b"n"),
        entry("link/b", b"b"), entry("same", b"second"), entry("twice", b"1"), entry("twice", b"2"),
    ]  # fmt: skip
    with imported(base, saved(tmp_path, lower, upper)) as image:
        script = "find /etc/gone /etc/kept /var /lib /link | sort; cat /same /twice"
        said = output(base, image, "sh", "-c", f"({script}) 2>/dev/null")
        assert said.split() == [
            "/etc/kept", "/lib", "/lib/real", "/lib/real/a", "/lib/real/b", "/link", "/var", "/var/cache",
            "/var/cache/new", "second2",
        ]  # fmt: skip


def test_owners_modes_and_capabilities_arrive_in_the_guest(base: Server, tmp_path: Path) -> None:
    capability = {"SCHILY.xattr.security.capability": NET_RAW.decode("latin-1")}
    layer = shell(
        entry("bin/app", BUSYBOX, mode=0o4755, uid=7, gid=8),
        entry("bin/gid", b"x", mode=0o2711, uid=100000, gid=3),
        entry("bin/id2", BUSYBOX, mode=0o4755, uid=7, gid=8),
        entry("bin/caps", BUSYBOX, mode=0o755, pax_headers=capability),
        entry("tmp", kind=tarfile.DIRTYPE, mode=0o1777),
        entry("pipe", kind=tarfile.FIFOTYPE, mode=0o600),
    )
    with imported(base, saved(tmp_path, layer)) as image:
        look = "stat -c '%n %a %u:%g %F' /bin/app /bin/gid /tmp /pipe"
        assert output(base, image, "sh", "-c", look).splitlines() == [
            "/bin/app 4755 7:8 regular file", "/bin/gid 2711 100000:3 regular file", "/tmp 1777 0:0 directory",
            "/pipe 600 0:0 fifo",
        ]  # fmt: skip
        # cap_net_raw is bit 13; a copy of busybox called `caps` is asked to be `cat` by its first argument.
        effective = "busybox ln -s /bin/caps /tmp/cat; /tmp/cat /proc/self/status | /bin/busybox grep CapEff"
        said = output(base, image, "sh", "-c", effective, flags=("--user", "65534"))
        assert said.split() == ["CapEff:", "0000000000002000"]


# -- registries ------------------------------------------------------------------------------------------------------


def test_a_pull_is_told_as_it_goes_and_the_image_runs(base: Server, tmp_path: Path, registry: str) -> None:
    name = f"{registry}/team/{fresh()}:1"
    digest = push(oci_layout(tmp_path / "layout", shell(), says={"Env": ["PATH=/bin"]}), name)
    answer = httpx.post(
        f"{base.facts['url']}/api/v1/images/pull", json={"name": name}, headers={"X-API-Key": base.facts["api_key"]},
        timeout=120, trust_env=False,
    )  # fmt: skip
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert told[-1]["image"]["digest"] == digest
    assert len(told) > 1 and all("text" in line for line in told[:-1])
    with ran(base, name, "sh", "-c", "echo hi; exit 3") as (code, said, _):
        assert (code, said.splitlines()[0]) == (3, "hi")
    kept = files(base)
    by_digest = pulled(base, f"{name.removesuffix(':1')}@{digest}")
    assert (by_digest["digest"], files(base)) == (digest, kept)
    base.cli("images", "rm", digest, check=True)
    assert files(base) == kept - 1


def test_a_moved_tag_gives_the_new_image_and_the_old_machine_restarts(
    base: Server, tmp_path: Path, registry: str
) -> None:
    name, says = f"{registry}/{fresh()}:stable", {"Env": ["PATH=/bin"]}
    push(oci_layout(tmp_path / "one", shell(entry("version", b"one\n")), says=says), name)
    old = pulled(base, name)["digest"]
    with ran(base, name, "cat", "/version") as (code, said, vm):
        assert (code, said) == (0, "one\n")
        push(oci_layout(tmp_path / "two", shell(entry("version", b"two\n")), says=says), name)
        assert output(base, name, "cat", "/version") == "one\n"  # nobody asked the registry again
        new = pulled(base, name)["digest"]
        assert new != old
        assert output(base, name, "cat", "/version") == "two\n"
        base.cli("start", vm, check=True)
        assert base.cli("wait", vm, check=True).stdout == b"0\n"
        assert base.cli("logs", vm, check=True).stdout.decode().split()[-1] == "one"
        assert base.cli("images", "rm", old).returncode == 1
    base.cli("images", "rm", old, new, check=True)


async def test_two_tenants_names_do_not_meet(base: Server, tmp_path: Path) -> None:
    name = fresh()
    one, two = await tenant(base), await tenant(base)
    async with one, two:
        for who, word in ((one, b"one"), (two, b"two")):
            archive = saved(tmp_path, [entry("word", word)])
            answer = await who.put("/api/v1/images", params={"name": name}, content=archive.read_bytes())
            assert answer.status_code == 201, answer.text
        seen = [(await who.get(f"/api/v1/images/{name}")).json()["digest"] for who in (one, two)]
        assert seen[0] != seen[1]
        assert (await one.get(f"/api/v1/images/{seen[1]}")).status_code == 404
        three = await tenant(base)
        async with three:
            for wanted in (name, seen[0]):
                hidden = await three.post("/api/v1/images/pull", json={"name": wanted})
                assert (hidden.status_code, hidden.json()["kind"]) == (404, "NotFound")
        for who in (one, two):
            assert (await who.delete(f"/api/v1/images/{name}")).status_code == 204


async def test_a_tenant_cannot_have_the_server_ask_its_neighbours(base: Server, registry: str) -> None:
    said = set()
    async with await tenant(base) as stranger:
        for host in (registry, "127.1.2.3:5000", "localhost:1", "[::1]:5000", "10.0.0.1", "169.254.169.254:80",
                     "[fd00::1]:5000", "[::ffff:7f00:1]:80", "no-such-name.invalid"):  # fmt: skip
            answer = await stranger.post("/api/v1/images/pull", json={"name": f"{host}/team/app:1"})
            assert (answer.status_code, answer.json()["kind"]) == (403, "Forbidden"), (host, answer.text)
            said.add(answer.json()["message"].replace(host, "X"))
            made = await stranger.post("/api/v1/instances", json={"image": f"{host}/team/app:1"})
            assert made.status_code == 403
    assert said == {"images may not be pulled from X"}  # which of them exist is not told


def test_listed_registries_are_all_there_are_and_one_completes_short_names(
    another: Any, tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = fresh()
    push(oci_layout(tmp_path / "layout", [entry("x", b"x")]), f"{registry}/team/{short}:1")
    settings = tmp_path / "polyvisor.toml"
    settings.write_text(f'[images]\nregistry = "{registry}/team"\nregistries = "r.example, {registry}"\n')
    server = another("--config", str(settings))
    assert pulled(server, f"{short}:1")["names"] == [f"{short}:1"]
    refused = server.cli("images", "pull", "127.0.0.1:1/a", "--json")
    assert json.loads(refused.stderr)["kind"] == "Forbidden"
    missing = server.cli("images", "pull", "nothing", "--json")
    assert json.loads(missing.stderr)["kind"] == "NotFound"
