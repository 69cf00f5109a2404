"""Who is let in, where, and what is said to whom is not (vergeos.md §1.1 to §1.5)."""

from __future__ import annotations

import base64

import httpx
import pytest

from dialect.served import Served
from dialect.vergeos.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("path", ["/version.json", "/api/version.json", "/api/v4/version.json"])
async def test_the_version_is_told_to_everybody(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.json()["name"] == "v4"
    assert int(answer.json()["version"].split(".")[0]) >= 26


async def test_the_system_says_what_clients_connect_by(api: Api) -> None:
    told = await api.get("system", fields="$key,yb_version,os_version,cloud_name")
    assert [set(row) for row in told] == [{"$key", "yb_version", "os_version", "cloud_name"}]


async def test_every_credential_opens_the_door(served: Served, http: httpx.AsyncClient) -> None:
    admin = served.parts.facts["admin"]
    basic = base64.b64encode(f"{admin['username']}:{admin['password']}".encode()).decode()
    login = {"login": admin["username"], "password": admin["password"]}
    made = await http.post("/api/sys/tokens", json=login)
    assert made.status_code == 201
    token = made.json()["$key"]
    assert made.json()["location"] == f"/sys/tokens/{token}"
    assert len(token) == 40
    shown = {"Authorization": f"Basic {basic}"}, {"Authorization": f"Bearer {served.key}"}, {"x-yottabyte-token": token}
    for headers in shown:
        assert (await http.get("/api/v4/vms", headers=headers)).status_code == 200
    assert (await http.delete(f"/api/sys/tokens/{token}")).status_code == 200
    assert (await http.get("/api/v4/vms", headers={"x-yottabyte-token": token})).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nobody"},
        {"Authorization": "Basic " + base64.b64encode(b"root:wrong").decode()},
        {"Authorization": "Digest x"},
        {"x-yottabyte-token": "0" * 40},
    ],
)
async def test_nobody_else_is_let_in(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for path in ("/api/v4/vms", "/api/v4/nonsense", "/api/v4/vms/1"):
        answer = await http.get(path, headers=headers)
        assert answer.status_code == 401
        assert "Login" in answer.json()["err"]


async def test_what_is_not_there_is_named(api: Api) -> None:
    await api.refused(404, "Resource '/v4/nonsense' not found", "GET", "nonsense")
    await api.refused(404, "Resource '/v4/vms/999999' not found during get", "GET", "vms/999999")
    await api.refused(404, "Resource '/v4/vms/999999' not found during delete", "DELETE", "vms/999999")
    await api.refused(404, "Resource '/v4/vms/x' not found during put", "PUT", "vms/x", {})
    await api.refused(405, "not permitted", "DELETE", "vms")
    await api.refused(405, "not permitted", "POST", "system", {})
    await api.refused(405, "not permitted", "PATCH", "vms/1" if False else "vms", {})


async def test_a_body_that_is_none_is_refused(api: Api, http: httpx.AsyncClient) -> None:
    for data in (b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000):
        answer = await http.post("/api/v4/vms", content=data, headers=api.headers)
        assert answer.status_code == 400, data[:20]
        assert answer.json()["err"]


async def test_tables_say_what_they_are(api: Api) -> None:
    told = (await api.get("vms/$table"))["fields"]
    assert told["machine_type"]["list"]["pc-q35-10.0"]
    assert told["ram"]["min"] == 256
    assert "virtio-scsi" in (await api.get("machine_drives/$table"))["fields"]["interface"]["list"]


async def test_tables_of_what_one_host_cannot_mean_are_empty(api: Api) -> None:
    for table in ("tenants", "sites", "vnet_rules", "alarms"):
        assert await api.get(table, filter="whatever eq 'x'", fields="a,b#c") == []
        assert await api.get(table, fields=",") == [{"$count": 0}]
    await api.refused(405, "not permitted", "POST", "tenants", {"name": "x"})


async def test_another_projects_things_are_not_there(api: Api, stranger: Api) -> None:
    vm = await api.vm()
    drive = await api.drive(vm)
    assert await stranger.get("vms") == []
    for path in (f"vms/{vm.key}", f"machines/{vm.machine}", f"machine_status/{vm.machine}", f"machine_drives/{drive}"):
        await stranger.refused(404, "not found", "GET", path)
        await stranger.refused(404, "not found", "DELETE", path)
    await stranger.refused(404, "not found", "POST", "vm_actions", {"vm": vm.key, "action": "poweron"})
    assert await stranger.get("machine_drives", filter=f"machine eq {vm.machine}") == []
    body = {"machine": vm.machine, "media": "disk", "disksize": 2**20}
    await stranger.refused(404, "error setting field 'machine'", "POST", "machine_drives", body)
