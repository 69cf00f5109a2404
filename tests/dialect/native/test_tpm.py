"""Machines with a TPM over HTTP: no two have the secrets of one."""

from __future__ import annotations

import httpx
import pytest

from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_has_memory_in_it_has_the_secrets_and_is_refused(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(image="debian-12", tpm=True)
    assert (vm["shape"], vm["tpm"]) == ("full", True)
    path = f"/api/v1/instances/{vm['id']}"
    for verb, body in (("fork", {}), ("fork", {"kind": "full"}), ("snapshots", {"kind": "full"})):
        refused = await http.post(f"{path}/{verb}", json=body)
        assert (refused.json()["kind"], refused.json()["field"]) == ("Unsupported", "tpm"), refused.text
    for verb, state in (("standby", "suspended"), ("restore", "running")):
        answer = await http.post(f"{path}/{verb}", params={"wait": "launched"})
        assert (answer.status_code, answer.json()["state"]) == (200, state), answer.text
    fork = await http.post(f"{path}/fork", json={"kind": "disk"}, params={"wait": "launched"})
    assert (fork.status_code, fork.json()["tpm"]) == (201, True), fork.text
    kept = (await http.post(f"{path}/snapshots", json={})).json()
    named = {"snapshot": kept["id"], "name": fresh("f")}
    decided = await http.post("/api/v1/instances", json={**named, "tpm": False})
    assert (decided.status_code, decided.json()["field"]) == (422, "tpm")
    assert (await http.post("/api/v1/instances", json=named)).json()["tpm"]


async def test_only_machines_with_firmware_have_one(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/instances", json={"image": "busybox", "name": fresh("vm"), "tpm": True})
    assert (answer.status_code, answer.json()["field"]) == (422, "tpm"), answer.text
    assert not (await served.make())["tpm"]


async def test_a_host_that_makes_none_says_so(
    served: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(served.hypervisor), "abilities", served.hypervisor.abilities - {"tpm"})
    answer = await http.post("/api/v1/instances", json={"blank": True, "name": fresh("vm"), "tpm": True})
    assert (answer.json()["kind"], answer.json()["field"]) == ("Unsupported", "tpm")
    assert "swtpm" in answer.json()["message"]
