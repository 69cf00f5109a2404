"""Blank machines and their screens over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dialect.served import Served, fresh
from polyvisor.client import Client

pytestmark = pytest.mark.asyncio(loop_scope="session")
SCREEN = [{"name": "main", "width": 640, "height": 480, "ppi": 96}]


async def _machine(served: Served, **fields: Any) -> dict[str, Any]:
    return await served.make(image=None, blank=True, firmware="uefi", displays=SCREEN, **fields)


async def test_a_blank_machine_has_what_is_attached_to_it(served: Served, http: httpx.AsyncClient) -> None:
    disk = (await http.post("/api/v1/volumes", json={"name": fresh("m"), "size": "1M", "kind": "DISK"})).json()
    vm = await _machine(served, volumes=[{"volume": disk["name"]}])
    assert (vm["state"], vm["image"], vm["disk"], vm["shape"], vm["displays"]) == ("running", "", 0, "full", SCREEN)
    path = f"/api/v1/instances/{vm['id']}"
    for verb, state in [
        ("pause", "paused"), ("resume", "running"), ("reset", "running"), ("standby", "suspended"),
        ("restore", "running"), ("restart", "running"), ("stop", "stopped"), ("start", "running"),
    ]:  # fmt: skip
        answer = await http.post(f"{path}/{verb}", params={"wait": "launched"})
        assert (answer.status_code, answer.json()["state"]) == (200, state), (verb, answer.text)
    for verb in ("snapshots", "fork"):
        refused = await http.post(f"{path}/{verb}", json={})
        assert refused.json()["kind"] == "Unsupported", refused.text


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"image": "busybox"}, "image"),
        ({"disk": "1G"}, "disk"),
        ({"shape": "micro"}, "shape"),
        ({"command": ["x"]}, "command"),
        ({"env": {"A": "1"}}, "env"),
        ({"displays": [{"width": 1, "height": 480}]}, "displays"),
        ({"displays": SCREEN * 2}, "displays"),
        ({"volumes": [{"volume": "nonesuch"}]}, "volume"),
    ],
)
async def test_what_a_blank_machine_cannot_have_is_refused(
    http: httpx.AsyncClient, asked: dict[str, Any], field: str
) -> None:
    answer = await http.post("/api/v1/instances", json={"name": fresh("vm"), "blank": True, **asked})
    assert (answer.status_code in (404, 422), answer.json()["field"]) == (True, field), answer.text


async def test_the_power_button_alone_ends_nobody(served: Served, http: httpx.AsyncClient) -> None:
    vm = await _machine(served)
    machine = served.vm(vm["id"])
    machine._knob.stubborn.add(machine.id)
    path = f"/api/v1/instances/{vm['id']}"
    assert (await http.post(f"{path}/press")).json()["state"] == "running"
    machine._knob.stubborn.discard(machine.id)
    await http.post(f"{path}/press")
    assert (await http.get(f"{path}/wait", params={"state": "stopped"})).json()["state"] == "stopped"
    refused = await http.post(f"{path}/press")
    assert (refused.status_code, refused.json()["kind"]) == (409, "WrongState")


async def test_a_picture_has_the_screens_size(served: Served, http: httpx.AsyncClient) -> None:
    vm = await _machine(served)
    answer = await http.get(f"/api/v1/instances/{vm['id']}/screenshot")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content[16:24] == (640).to_bytes(4) + (480).to_bytes(4)
    without = await served.make()
    refused = await http.get(f"/api/v1/instances/{without['id']}/screenshot")
    assert (refused.json()["kind"], refused.json()["field"]) == ("Unsupported", "displays")
    async with Client(served.url, await served.stranger()) as stranger:
        for asking in (stranger.instances.screenshot(vm["id"]), stranger.instances.screen_ticket(vm["id"])):
            with pytest.raises(Exception, match="no instance"):
                await asking


async def test_a_ticket_opens_the_screen_once(served: Served, http: httpx.AsyncClient) -> None:
    vm = await _machine(served)
    path = f"/api/v1/instances/{vm['id']}"
    ticket = (await http.post(f"{path}/screen/tickets")).json()
    assert 0 < ticket["expires_in"] <= 60
    url = served.url.replace("http", "ws", 1) + ticket["path"]
    async with connect(url, proxy=None, subprotocols=["binary"]) as socket:  # type: ignore[list-item]
        assert (socket.subprotocol, await socket.recv()) == ("binary", b"RFB 003.008\n")
        await socket.send(b"hello")
        assert await socket.recv() == b"hello"
        assert served.parts.engine.screens.watched(vm["id"]) == 1
        await http.post(f"{path}/stop", params={"wait": "launched"}, json={"force": True})
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
    while served.parts.engine.screens.watched(vm["id"]):
        await asyncio.sleep(0.02)
    for wrong in (url, url[:-3] + "abc"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(wrong, proxy=None)
        assert caught.value.response.status_code == 404
