"""`POST /v1/vms` by upstream's client: each field of the contract alone, and all in one request, each by what it does
in the guest or around it. The server is in a world of the test's, with a name server and an authority there."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from instavm import InstaVM

from nameserver import name_server
from real.authorities import authority_in
from real.conftest import finish, share
from real.guests import make_boot_files
from real.namespaces import OTHER_NAME, WORLD_NAME, ground
from real.pythons import python_on
from real.test_domains import TARGET, Place
from real.test_ingress import Site
from real.test_instavm import client, sh
from real.test_vaults import Upstream, said, upstream
from real.verges import eventually
from serving import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bridge,
    pytest.mark.lengthy,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("trusting"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
LISTEN = "127.0.0.2"
SMALL = {"memory_mb": 192, "vcpu_count": 1}
ONLY = {
    "allow_http": False, "allow_https": False, "allow_package_managers": False, "allowed_domains": [WORLD_NAME],
}  # fmt: skip
REACHED = f"""
import json, socket
def reached(host):
    try:
        socket.create_connection((host, 443), 10).close()
        return True
    except OSError:
        return False
print(json.dumps([reached({WORLD_NAME!r}), reached({OTHER_NAME!r})]))
"""
FIELDS = (
    "session_id", "vm_lifetime_seconds", "memory_mb", "vcpu_count", "metadata", "env", "egress_policy", "snapshot_id",
    "snapshot_on_terminate", "snapshot_name", "share", "custom_domain", "image_variant", "volumes", "vault_ids",
)  # fmt: skip
"""The contract's, in its order."""


@dataclass(frozen=True)
class World:
    """The place, the host that a credential is for, and what VMs are made with: a snapshot with the file `/root/seed`,
    a volume whose file `state` says `new` and in its checkpoint `old`, a vault."""

    place: Place
    upstream: Upstream
    secret: str
    snapshot: str
    volume: str
    checkpoint: str
    vault: str

    def sdk(self) -> InstaVM:
        """Upstream's client, with a session of its own."""
        return client(self.place.site.server)


@pytest.fixture(scope="module")
def world(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """It; whoever runs a test is on the server's machine meanwhile."""
    folder = tmp_path_factory.mktemp("create")
    make_boot_files(base)
    share(base.data, folder / "data")
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(ground())
        there = stack.enter_context(upstream(made.world, folder))
        stack.enter_context(made.host.inside())
        names = stack.enter_context(name_server())
        names.put(TARGET, "A", LISTEN)
        authority = stack.enter_context(authority_in(folder / "acme", names))
        settings = folder / "settings.toml"
        words = (
            f'[network]\nvaults_ca = "{there.authority}"\n[ingress]\nlisten = "{LISTEN}"\n'
            f'tls_domains = "nobody.example.org"\nacme_ca = "{authority.directory}"\nacme_root = "{authority.root}"\n'
            f'[variants.tiny]\nimage = "busybox"\n[instavm]\ndomains = "{TARGET}"\ndns = "127.0.0.1:{names.port}"\n'
            f"dns_private = true\n"
        )
        settings.write_text(words)
        server = Server(folder / "data", "--config", str(settings), prefix=made.host.prefix).start()
        try:
            with python_on(server, folder) as image:
                server.stop()
                settings.write_text(words + f"image = {json.dumps(image)}\n")
                server.start()
                yield _furnished(Place(Site(server, LISTEN), names, authority, ""), there, folder)
                server.cli("rm", "--all", "--force", check=True)
                _cleared(client(server))
        finally:
            finish(server)


def _furnished(place: Place, there: Upstream, folder: Path) -> World:
    sdk, secret = client(place.site.server), "sk-of-the-test"
    volume = sdk.volumes.create("state", 32 << 20)["id"]
    state = folder / "state"
    state.write_text("old\n")
    sdk.volumes.upload_file(volume, str(state), "state")
    checkpoint = sdk.volumes.create_checkpoint(volume, name="then")["id"]
    state.write_text("new\n")
    sdk.volumes.upload_file(volume, str(state), "state", overwrite=True)
    vault = sdk.create_vault("of the test")["id"]
    sdk.add_vault_credential(vault, name="API_KEY", value=secret)
    sdk.add_vault_service(vault, host=WORLD_NAME, auth_config={"type": "bearer", "token": "API_KEY"})
    vm = sdk.vms.create(**SMALL)
    sdk.session_id = vm["session_id"]
    sh(sdk, "echo sown > /root/seed")
    snapshot = sdk.vms.snapshot(vm["vm_id"], name="seed")["snapshot_id"]
    sdk.vms.delete(vm["vm_id"])
    return World(place, there, secret, snapshot, volume, checkpoint, vault)


def _cleared(sdk: InstaVM) -> None:
    """Snapshots hold the image in place."""
    for one in sdk.snapshots.list():
        sdk.snapshots.delete(one["id"])


def answered(url: str, **headers: str) -> int | bytes:
    """What is said there, or the status of a refusal."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.code


# -- what each field does ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A VM, as the create and later calls tell of it."""

    world: World
    sdk: InstaVM
    body: Mapping[str, Any]
    told: dict[str, Any]

    @property
    def id(self) -> str:
        """What it is called."""
        return str(self.told["vm_id"])

    @property
    def record(self) -> dict[str, Any]:
        """As it is listed."""
        (found,) = [one for one in self.sdk.vms.list() if one["vm_id"] == self.id]
        assert found == self.sdk.vms.get(self.id)
        return dict(found)

    def kept(self) -> dict[str, Any]:
        """The one snapshot that its end leaves."""
        self.sdk.vms.delete(self.id)
        source = "vmid-" + self.id.split("-")[1]
        (found,) = [one for one in self.sdk.snapshots.list() if one.get("vm_id") == source]
        assert found["status"] == "ready"
        return dict(found)


def session_id(vm: Made) -> None:
    assert vm.told["session_id"] == vm.body["session_id"]
    assert vm.sdk.get_session_status(vm.body["session_id"])["vm_id"] == vm.id


def vm_lifetime_seconds(vm: Made) -> None:
    begin, end = (datetime.fromisoformat(vm.record[name]) for name in ("created_at", "expires_at"))
    wanted = timedelta(seconds=vm.body["vm_lifetime_seconds"])
    assert abs(end - begin - wanted) <= timedelta(seconds=1)


def memory_mb(vm: Made) -> None:
    total = int(sh(vm.sdk, "awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert vm.body["memory_mb"] - 64 < total <= vm.body["memory_mb"]


def vcpu_count(vm: Made) -> None:
    assert sh(vm.sdk, "grep -c ^processor /proc/cpuinfo") == f"{vm.body['vcpu_count']}\n"


def metadata(vm: Made) -> None:
    (found,) = vm.sdk.list_sandboxes(metadata={"k": {"n": 1}})
    assert (found["vm_id"], found["metadata"]) == (vm.id, vm.body["metadata"])


def env(vm: Made) -> None:
    assert vm.told["env_status"] == "applied" and vm.told["env_error"] is None
    assert sh(vm.sdk, "echo $GIVEN") == vm.sdk.execute("import os; print(os.environ['GIVEN'])")["stdout"] == "it's so\n"


def egress_policy(vm: Made) -> None:
    ran = vm.sdk.execute(REACHED, timeout=120)
    assert json.loads(ran["stdout"]) == [True, False], ran
    assert vm.sdk.get_vm_egress(vm.id)["allowed_domains"] == [WORLD_NAME]


def snapshot_id(vm: Made) -> None:
    assert sh(vm.sdk, "cat /root/seed") == "sown\n"
    assert vm.record["snapshot_id"] == vm.body["snapshot_id"]


def share_(vm: Made) -> None:
    sh(vm.sdk, "mkdir -p /www; echo hello > /www/index.html; httpd -p 8000 -h /www")
    way = vm.told["share"]
    public = vm.body["share"].get("is_public", False)
    assert (way["port"], way["is_public"]) == (8000, public)
    assert answered(way["url"]) == (b"hello\n" if public else 403)
    if not public:
        assert answered(way["url"], **{way["token_header"]: way["token"]}) == b"hello\n"


def image_variant(vm: Made) -> None:
    assert vm.record["image_variant"] == vm.body["image_variant"]
    has = "yes\n" if vm.body["image_variant"] == "standard" else "no\n"
    assert sh(vm.sdk, "command -v python3 > /dev/null && echo yes || echo no") == has


def volumes(vm: Made) -> None:
    assert sh(vm.sdk, "cat /now/state /then/state; echo written > /now/more") == "new\nold\n"
    assert "Read-only" in vm.sdk.execute("echo x > /then/state", language="bash")["stderr"]
    assert {one["mount_path"]: one["mode"] for one in vm.sdk.vms.list_volumes(vm.id)} == {"/now": "rw", "/then": "ro"}


def vault_ids(vm: Made) -> None:
    assert said(vm.sdk, f"ask({WORLD_NAME!r}, '/things')")[:2] == [200, "you asked for /things"]
    assert vm.world.upstream.seen.pop() == ("/things", f"Bearer {vm.world.secret}")
    assert vm.world.secret not in sh(vm.sdk, "env") and vm.record["vault_ids"] == vm.body["vault_ids"]


def custom_domain(vm: Made) -> None:
    place, domain = vm.world.place, vm.told["custom_domain"]
    name = vm.body["custom_domain"]["domain"]
    assert (domain["domain"], domain["status"], domain["share_id"]) == (name, "pending", vm.told["share"]["share_id"])
    if "dns_credentials" in vm.body["custom_domain"]:  # who has them has written what leads here
        assert place.names.text(domain["setup"]["txt_record"]["name"]) == {domain["setup"]["txt_record"]["value"]}
    else:
        place.point(name, domain["setup"]["txt_record"])
    vm.sdk.custom_domains.verify_and_wait(domain["id"], timeout=200, poll_interval=0.5)
    assert place.get(name).endswith(b"hello\n")


def snapshot_on_terminate(vm: Made) -> None:
    assert vm.record["snapshot_on_terminate"] is True
    sh(vm.sdk, "echo kept > /root/kept")
    sdk, found = vm.sdk, vm.kept()
    again = sdk.vms.create(snapshot_id=found["id"], **SMALL)
    sdk.session_id = again["session_id"]
    assert sh(sdk, "cat /root/kept") == "kept\n"
    sdk.vms.delete(again["vm_id"])
    sdk.snapshots.delete(found["id"])


def snapshot_name(vm: Made) -> None:
    """It is the name of what `snapshot_on_terminate` leaves, also when that is asked for later."""
    assert vm.record["snapshot_name"] == vm.body["snapshot_name"]
    vm.sdk.vms.update(vm.id, snapshot_on_terminate=True)
    found = vm.kept()
    assert found["name"] == vm.body["snapshot_name"]
    vm.sdk.snapshots.delete(found["id"])


SEES: Mapping[str, Callable[[Made], None]] = {
    "session_id": session_id, "vm_lifetime_seconds": vm_lifetime_seconds, "memory_mb": memory_mb,
    "vcpu_count": vcpu_count, "metadata": metadata, "env": env, "egress_policy": egress_policy,
    "snapshot_id": snapshot_id, "share": share_, "custom_domain": custom_domain, "image_variant": image_variant,
    "volumes": volumes, "vault_ids": vault_ids, "snapshot_on_terminate": snapshot_on_terminate,
    "snapshot_name": snapshot_name,
}  # fmt: skip


def alone(world: World, sdk: InstaVM, field: str) -> dict[str, Any]:
    """The field with a value, and nothing but that."""
    mounts = [
        {"volume_id": world.volume, "mount_path": "/now"},
        {"volume_id": world.volume, "mount_path": "/then", "mode": "ro", "checkpoint_id": world.checkpoint},
    ]
    values: dict[str, Any] = {
        "session_id": sdk.session_id, "vm_lifetime_seconds": 20, "memory_mb": 224, "vcpu_count": 1,
        "metadata": {"k": {"n": 1, "m": None}, "l": [1]}, "env": {"GIVEN": "it's so"}, "egress_policy": ONLY,
        "snapshot_id": world.snapshot, "snapshot_on_terminate": True, "snapshot_name": "the-last-of-it",
        "share": {"port": 8000}, "image_variant": "tiny", "volumes": mounts, "vault_ids": [world.vault],
        "custom_domain": {"domain": "alone.example.com"},
    }  # fmt: skip
    return {field: values[field]}


def made_with(world: World, sdk: InstaVM, body: Mapping[str, Any]) -> Made:
    """A VM that is up, which the client's session is from now on."""
    told = sdk.vms.create(**body)
    assert told["status"] == "active" and told["session_id"], told
    sdk.session_id = told["session_id"]
    return Made(world, sdk, body, told)


# -- alone -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_alone(world: World, field: str) -> None:
    sdk = world.sdk()
    body = alone(world, sdk, field)
    if field == "custom_domain":  # which leads to a share
        with pytest.raises(requests.HTTPError) as caught:
            sdk.vms.create(**body)
        assert caught.value.response is not None
        assert caught.value.response.json()["detail"][0]["loc"] == ["body", "custom_domain"]
        body["share"] = {"port": 8000, "is_public": True}
    vm = made_with(world, sdk, body)
    try:
        if field == "custom_domain":
            share_(vm)
        SEES[field](vm)
        if field == "vm_lifetime_seconds":
            eventually(lambda: sdk.vms.get(vm.id)["status"] == "terminated", 60)
            assert sdk.get_session_status()["vm_status"] == "killed"
    finally:
        with contextlib.suppress(requests.HTTPError):  # it has ended
            sdk.vms.delete(vm.id)


def test_a_create_that_is_not_waited_for(world: World) -> None:
    sdk = world.sdk()
    told = sdk.vms.create(wait=False, **SMALL)
    assert (told["status"], told["env_status"]) == ("creating", "none")
    eventually(lambda: sdk.vms.get(told["vm_id"])["status"] == "active", 120)
    sdk.session_id = told["session_id"]
    assert sh(sdk, "echo there") == "there\n"
    sdk.vms.delete(told["vm_id"])


# -- together ----------------------------------------------------------------------------------------------------------


def test_all_fields_in_one_create(world: World) -> None:
    sdk = world.sdk()
    body = {name: value for field in FIELDS for name, value in alone(world, sdk, field).items()}
    body |= {
        "vm_lifetime_seconds": 3600, "vcpu_count": 2, "image_variant": "standard",
        "share": {"port": 8000, "is_public": True},
        "custom_domain": {
            "domain": "all.example.com", "dns_provider": "rfc2136", "dns_credentials": world.place.names.credentials,
        },
    }  # fmt: skip
    assert list(body) == list(FIELDS)
    vm = made_with(world, sdk, body)
    try:
        _all_seen(vm)
    finally:
        with contextlib.suppress(requests.HTTPError):  # it has ended
            sdk.vms.delete(vm.id)


def _all_seen(vm: Made) -> None:
    for field, see in SEES.items():
        if field not in ("snapshot_on_terminate", "snapshot_name"):  # these are for its end
            see(vm)
    sdk, names = vm.sdk, vm.world.place.names
    assert names.credentials["key_secret"] not in json.dumps([vm.record, vm.told, sdk.custom_domains.list()])
    found = vm.kept()
    assert found["name"] == vm.body["snapshot_name"]
    sdk.snapshots.delete(found["id"])
    eventually(lambda: answered_nothing(vm.told["share"]["url"]), 60)  # its ways in go after it
    eventually(lambda: not sdk.custom_domains.list() and not names.text("_instavm.all.example.com"), 60)
    files = {one["path"] for one in sdk.volumes.list_files(vm.world.volume)}
    assert files == {"state", "more"}  # what the guest wrote is there after it


def answered_nothing(url: str) -> bool:
    """Nobody is there any more."""
    try:
        answered(url)
    except OSError:
        return True
    return False
