"""The Hypeman dialect with real machines, by upstream's own client: the checks of hypeman.md §7, as far as they go."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import tarfile
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, NotFoundError
from hypeman.lib import cp_from_instance_async, cp_to_instance_async, exec_async
from hypeman.types import Instance

from real.upstream import IMAGE, SMALL, Machines
from serving import Server


async def test_create_exec_standby_restore_delete(machines: Machines) -> None:
    sdk = machines.sdk
    made = await machines.make(cmd=["sleep", "3600"])
    ran = await exec_async(sdk, made.id, ["sh", "-c", "echo hi; exit 3"])
    assert (ran.output, ran.exit_code) == (b"hi\n", 3)
    marker = uuid.uuid4().hex
    await machines.say(made.id, f"echo {marker} > /dev/shm/marker; sleep 3599 < /dev/null > /dev/null 2>&1 &")
    asleep = await sdk.instances.standby(made.id)
    assert (asleep.state, asleep.has_snapshot) == ("Standby", True)
    awake = await sdk.instances.restore(made.id)
    assert awake.state == "Running"
    assert awake.network is not None and made.network is not None
    assert (awake.network.ip, awake.network.mac) == (made.network.ip, made.network.mac)
    assert await machines.say(made.id, "cat /dev/shm/marker") == marker
    assert "sleep 3599" in await machines.say(made.id, "ps")
    await sdk.instances.delete(made.id)
    with pytest.raises(NotFoundError):
        await sdk.instances.get(made.id)


async def test_a_workload_that_ends_stops_its_instance(machines: Machines) -> None:
    async def ended(**fields: Any) -> Instance:
        made = await machines.sdk.instances.create(
            name="h" + uuid.uuid4().hex[:12], image=IMAGE, size=SMALL, vcpus=1, **fields
        )
        machines.also(made)
        await machines.until(made.id, "Stopped")
        return await machines.sdk.instances.get(made.id)

    seven, missing = await asyncio.gather(ended(cmd=["sh", "-c", "exit 7"]), ended(cmd=["/no/such/program"]))
    assert (seven.state, seven.exit_code) == ("Stopped", 7)
    assert (missing.exit_code, missing.exit_message) == (127, "command not found")


async def test_a_fork_has_the_memory_of_its_source_and_goes_its_own_way(machines: Machines) -> None:
    sdk = machines.sdk
    made = await machines.make(cmd=["sleep", "3600"])
    await machines.say(made.id, "echo before > /dev/shm/marker")
    fork = machines.also(await sdk.instances.fork(made.id, name=made.name + "-fork", from_running=True))
    assert fork.state == "Running" == (await sdk.instances.get(made.id)).state
    assert fork.network is not None and made.network is not None
    assert fork.network.ip != made.network.ip and fork.network.mac != made.network.mac
    assert await machines.say(fork.id, "cat /dev/shm/marker; echo after > /dev/shm/marker; hostname") == (
        f"before\n{fork.name}"
    )
    assert await machines.say(made.id, "cat /dev/shm/marker") == "before"
    mac = await machines.say(fork.id, "cat /sys/class/net/eth0/address")
    assert mac == fork.network.mac
    await sdk.instances.standby(made.id)
    again = machines.also(await sdk.instances.fork(made.id, name=made.name + "-again", target_state="Running"))
    assert await machines.say(again.id, "cat /dev/shm/marker") == "before"
    assert (await sdk.instances.get(made.id)).state == "Standby"
    asleep = machines.also(await sdk.instances.fork(made.id, name=made.name + "-asleep"))
    assert (asleep.state, asleep.has_snapshot) == ("Standby", True)
    assert (await sdk.instances.restore(asleep.id)).state == "Running"
    assert await machines.say(asleep.id, "cat /dev/shm/marker") == "before"


async def test_a_snapshot_keeps_memory_and_outlives_its_source(machines: Machines) -> None:
    sdk = machines.sdk
    made = await machines.make(cmd=["sleep", "3600"])
    await machines.say(made.id, "echo one > /dev/shm/marker; echo one > /root/marker; sync")
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby", name="s1")
    assert (await sdk.instances.get(made.id)).state == "Running" and taken.size_bytes > 0
    await machines.say(made.id, "echo two > /dev/shm/marker; echo two > /root/marker; sync")
    await sdk.instances.standby(made.id)
    back = await sdk.instances.snapshots.restore(taken.id, id=made.id)
    assert back.state == "Running"
    assert await machines.say(made.id, "cat /dev/shm/marker /root/marker") == "one\none"
    await sdk.instances.delete(made.id)
    fork = machines.also(await sdk.snapshots.fork(taken.id, name=made.name + "-fork"))
    assert fork.state == "Running"
    assert await machines.say(fork.id, "cat /dev/shm/marker /root/marker") == "one\none"
    cold = machines.also(await sdk.snapshots.fork(taken.id, name=made.name + "-cold", target_state="Stopped"))
    assert (cold.state, cold.has_snapshot) == ("Stopped", False)
    await sdk.instances.start(cold.id)
    await machines.until(cold.id, "Running")
    assert await machines.say(cold.id, "cat /root/marker; ls /dev/shm") == "one"
    await sdk.snapshots.delete(taken.id)


async def test_stop_start_and_another_command(machines: Machines) -> None:
    sdk = machines.sdk
    made = await machines.make(cmd=["sh", "-c", "echo first; sleep 3600"])
    await machines.say(made.id, "echo kept > /root/kept; sync")
    stopped = await sdk.instances.stop(made.id)
    assert (stopped.state, stopped.has_snapshot) == ("Stopped", False)
    assert (await sdk.instances.stop(made.id)).state == "Stopped"
    assert (await sdk.instances.stats(made.id)).memory_rss_bytes == 0
    await sdk.instances.start(made.id, cmd=["sh", "-c", "echo second; sleep 3600"])
    await machines.until(made.id, "Running")
    assert await machines.say(made.id, "cat /root/kept") == "kept"
    said = [line async for line in await sdk.instances.logs(made.id)]
    assert said == ["first", "second"]


async def test_environment_directory_and_command_of_the_image_can_be_overridden(machines: Machines) -> None:
    made = await machines.make(
        env={"COLOUR": "red", "PATH": "/bin:/usr/bin"},
        entrypoint=["sh", "-c"],
        cmd=["env; sleep 3600"],
        tags={"a": "b"},
    )
    said: set[str] = set()
    async with asyncio.timeout(60):  # it may have begun a moment ago
        while "COLOUR=red" not in said:
            said = {line async for line in await machines.sdk.instances.logs(made.id)}
    assert {"COLOUR=red", "PATH=/bin:/usr/bin"} <= said
    assert made.env == {"COLOUR": "red", "PATH": "/bin:/usr/bin"}


async def test_files_go_in_and_come_out_as_they_are(machines: Machines, tmp_path: Path) -> None:
    made = await machines.make(cmd=["sleep", "3600"])
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(5 * 1024 * 1024))
    (tree / "deep" / "run").write_bytes(b"#!/bin/sh\n")
    (tree / "deep" / "run").chmod(0o750)
    (tree / "deep").chmod(0o711)
    await cp_to_instance_async(machines.sdk, made.id, tree, "/root/tree")
    await machines.say(made.id, "ln -s deep/run /root/tree/link; ln /root/tree/big /root/tree/hard")
    await cp_from_instance_async(machines.sdk, made.id, "/root/tree", tmp_path / "back")
    back = tmp_path / "back" / "tree"
    assert (back / "big").read_bytes() == (tree / "big").read_bytes() == (back / "hard").read_bytes()
    assert (back / "deep" / "run").stat().st_mode & 0o777 == 0o750
    assert (back / "deep").stat().st_mode & 0o777 == 0o711
    assert (back / "link").readlink() == Path("deep/run")
    found = await machines.sdk.instances.stat(made.id, path="/root/tree/link")
    assert (found.is_symlink, found.link_target) == (True, "deep/run")
    followed = await machines.sdk.instances.stat(made.id, path="/root/tree/link", follow_links=True)
    assert (followed.is_file, followed.size, followed.mode) == (True, 10, 0o750)
    assert (await machines.sdk.instances.stat(made.id, path="/nope")).exists is False


async def test_commands_with_a_terminal_input_and_much_output(machines: Machines) -> None:
    made = await machines.make(cmd=["sleep", "3600"])

    async def ran(*argv: str, **more: Any) -> tuple[bytes, int]:
        done = await exec_async(machines.sdk, made.id, list(argv), **more)
        return done.output, done.exit_code

    script = "sleep 1; stty size; tty"
    output, code = await ran("sh", "-c", script, tty=True, rows=24, cols=80, resize=[(40, 100)])
    assert code == 0 and b"40 100" in output and b"/dev/" in output
    assert await ran("head", "-c", "5", stdin=b"hello world") == (b"hello", 0)
    output, code = await ran("sh", "-c", "head -c 10485760 /dev/zero")
    assert (len(output), code) == (10 * 1024 * 1024, 0)
    output, code = await ran("/no/such/program")
    assert code == 127 and output
    assert (await ran("sh", "-c", "kill -9 $$"))[1] == -1
    assert (await ran("sleep", "60", timeout=1))[1] == 124
    assert (await ran("sh", "-c", "pwd; echo $X", cwd="/tmp", env={"X": "y"}))[0] == b"/tmp\ny\n"


async def test_logs_and_what_it_takes(machines: Machines) -> None:
    sdk = machines.sdk
    script = "for i in 1 2 3 4 5 6 7; do echo line $i; done; while :; do sleep 1; echo late; done"
    made = await machines.make(cmd=["sh", "-c", script])
    last = [line async for line in await sdk.instances.logs(made.id, tail=2)]
    assert all(line.startswith(("line", "late")) for line in last)
    stream = await sdk.instances.logs(made.id, follow=True, tail=0)
    async with asyncio.timeout(60):
        async for line in stream:  # it may have begun a moment ago
            if line == "late":
                break
    await stream.close()
    for source in ("vmm", "hypeman"):
        said = [line async for line in await sdk.instances.logs(made.id, source=source)]
        assert source == "vmm" or any("create done" in line for line in said)
    await exec_async(sdk, made.id, ["ping", "-c", "1", "-W", "1", "192.0.2.1"])  # it asks for its gateway at least
    stats = await sdk.instances.stats(made.id)
    assert stats.allocated_memory_bytes == 256 * 1024**2 and stats.allocated_vcpus == 1
    assert stats.cpu_seconds > 0 and stats.memory_rss_bytes > 0 and stats.memory_vms_bytes > stats.memory_rss_bytes
    assert stats.network_tx_bytes > 0 and stats.network_rx_bytes > 0 and stats.memory_utilization_ratio


async def test_volumes_come_and_go_with_what_is_on_them(machines: Machines) -> None:
    sdk = machines.sdk
    id = "vol-" + uuid.uuid4().hex[:8]
    await sdk.volumes.create(name=id, size_gb=1, id=id)
    one = await machines.make(cmd=["sleep", "3600"], volumes=[{"volume_id": id, "mount_path": "/data"}])
    await machines.say(one.id, "echo written > /data/file; sync")
    await sdk.instances.delete(one.id)
    two = await machines.make(cmd=["sleep", "3600"])
    attached = await sdk.instances.volumes.attach(id, id=two.id, mount_path="/mnt/later")
    assert attached.volumes is not None and attached.volumes[0].volume_id == id
    assert await machines.say(two.id, "cat /mnt/later/file") == "written"
    assert (await sdk.instances.volumes.detach(id, id=two.id)).volumes is None
    assert await machines.say(two.id, "ls /mnt/later") == ""
    await sdk.volumes.delete(id)


async def test_states_outlive_the_server(base: Server, machines: Machines) -> None:
    running, asleep, stopped = [await machines.make(cmd=["sleep", "3600"]) for _ in range(3)]
    await machines.say(asleep.id, "echo kept > /dev/shm/kept")
    await machines.sdk.instances.standby(asleep.id)
    await machines.sdk.instances.stop(stopped.id)
    base.kill()
    base.start()
    async with httpx.AsyncClient(trust_env=False) as http:
        machines.sdk = AsyncHypeman(
            api_key=base.facts["api_key"], base_url=base.facts["url"], http_client=http, timeout=120, max_retries=0
        )
        await machines.until(running.id, "Running")
        states = [(await machines.sdk.instances.get(one.id)).state for one in (running, asleep, stopped)]
        assert states == ["Running", "Standby", "Stopped"]
        assert await machines.say(running.id, "echo here") == "here"
        assert (await machines.sdk.instances.restore(asleep.id)).state == "Running"
        assert await machines.say(asleep.id, "cat /dev/shm/kept") == "kept"
        await machines.discard()


async def test_a_token_of_the_command_line_is_one(base: Server, machines: Machines) -> None:
    done = base.cli("token", "--subject", "ci", "--scope", "instance:read", "--duration", "10m", check=True)
    async with httpx.AsyncClient(base_url=base.facts["url"], trust_env=False) as http:
        headers = {"Authorization": f"Bearer {done.stdout.decode().strip()}"}
        assert (await http.get("/instances", headers=headers)).status_code == 200
        refused = await http.post("/instances", headers=headers, json={"name": "x", "image": "busybox"})
        assert refused.json()["message"] == "missing required scope: instance:write"


async def test_a_volume_made_of_an_archive_holds_what_was_in_it(machines: Machines) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data, mode in (("deep/run", b"#!/bin/sh\necho ran\n", 0o750), ("big", os.urandom(1_000_000), 0o600)):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid = len(data), mode, 1000, 1000
            archive.addfile(info, io.BytesIO(data))
    name = "vol-" + uuid.uuid4().hex[:8]
    volume = await machines.sdk.volumes.create_from_archive(out.getvalue(), name=name, size_gb=1)
    mount: Any = {"volume_id": volume.id, "mount_path": "/data", "readonly": True}
    made = await machines.make(cmd=["sleep", "3600"], volumes=[mount])
    assert await machines.say(made.id, "/data/deep/run; stat -c '%a %u %s' /data/deep/run /data/big") == (
        "ran\n750 1000 19\n600 1000 1000000"
    )
    await machines.sdk.instances.delete(made.id)
    await machines.sdk.volumes.delete(volume.id)


async def test_both_listeners_speak_it(base: Server) -> None:
    facts = base.facts
    trust = ssl.create_default_context(cafile=facts["ca_file"])
    for url, verify in ((facts["url"], True), (facts["tls_url"], trust)):
        async with httpx.AsyncClient(trust_env=False, verify=verify) as http:
            sdk = AsyncHypeman(api_key=facts["api_key"], base_url=url, http_client=http, max_retries=0)
            assert (await sdk.health.check()).status == "ok"
            assert (await sdk.capabilities.get()).default_runtime.available


async def test_memory_that_is_compressed_is_taken_up_all_the_same(machines: Machines) -> None:
    sdk = machines.sdk
    made = await machines.make(cmd=["sleep", "3600"])
    await machines.say(made.id, "echo kept > /dev/shm/marker")
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby", compression={"enabled": True})
    assert taken.compression_state in ("compressing", "compressed")
    async with asyncio.timeout(120):
        while (now := await sdk.snapshots.get(taken.id)).compression_state != "compressed":
            assert now.compression_state == "compressing", now
            await asyncio.sleep(0.2)
    assert now.compressed_size_bytes and now.uncompressed_size_bytes
    assert now.compressed_size_bytes < now.uncompressed_size_bytes
    fork = machines.also(await sdk.snapshots.fork(taken.id, name=made.name + "-fork"))
    assert await machines.say(fork.id, "cat /dev/shm/marker") == "kept"
    await sdk.instances.standby(made.id, compression={"enabled": True, "algorithm": "lz4"})
    assert (await sdk.instances.restore(made.id)).state == "Running"
    assert await machines.say(made.id, "cat /dev/shm/marker") == "kept"
    await sdk.snapshots.delete(taken.id)
