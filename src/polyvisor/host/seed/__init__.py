"""The NoCloud seed of a full-shape instance: cloud-init's data and our agent, on a small ISO image."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

from polyvisor.host.run import run
from polyvisor.model.host import Blueprint
from polyvisor.model.spec import CloudInit

_AGENT_SETUP = """\
#!/bin/sh
set -e
[ ! -e /etc/systemd/system/polyvisor-agent.service ] || exit 0
dev=$(blkid -L cidata || true)
[ -n "$dev" ] || exit 0
mkdir -p /run/polyvisor-seed
mount -o ro "$dev" /run/polyvisor-seed
install -m 0755 /run/polyvisor-seed/agent /usr/local/sbin/polyvisor-agent
install -m 0644 /run/polyvisor-seed/agent.service /etc/systemd/system/polyvisor-agent.service
umount /run/polyvisor-seed
systemctl daemon-reload
systemctl enable polyvisor-agent.service
systemctl --no-block start polyvisor-agent.service
"""
_UNIT = """\
[Unit]
Description=polyvisor guest agent
DefaultDependencies=no
After=sysinit.target
Before=shutdown.target
Conflicts=shutdown.target

[Service]
ExecStart=/usr/local/sbin/polyvisor-agent --service
Restart=always
RestartSec=1
OOMScoreAdjust=-900

[Install]
WantedBy=sysinit.target
"""


def meta_data(blueprint: Blueprint) -> str:
    """The instance's identity. JSON is YAML, and quotes itself."""
    spec = blueprint.spec
    meta: dict[str, object] = {
        "instance-id": str(blueprint.id),
        "local-hostname": spec.hostname or blueprint.name,
    }
    if spec.cloud_init.ssh_keys and spec.cloud_init.user in ("", "root"):  # root has them whatever users its data names
        meta["public-keys"] = list(spec.cloud_init.ssh_keys)
    return json.dumps(meta)


def vendor_data(blueprint: Blueprint) -> str:
    """What we add: the agent, by a hook that no owner's data replaces, and the user that was asked for."""
    message = MIMEMultipart()
    hook = MIMEText(_AGENT_SETUP, "cloud-boothook", "us-ascii")
    config = MIMEText("#cloud-config\n" + json.dumps(_users(blueprint.spec.cloud_init)), "cloud-config", "us-ascii")
    for part in (hook, config):
        message.attach(part)
    return message.as_string()


def _users(wanted: CloudInit) -> dict[str, object]:
    if not wanted.user:
        return {}
    keys = list(wanted.ssh_keys)
    if wanted.user == "root":
        return {"users": [{"name": "root", "ssh_authorized_keys": keys}], "disable_root": False}
    user = {
        "name": wanted.user, "shell": "/bin/bash", "lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "ssh_authorized_keys": keys,
    }  # fmt: skip
    return {"users": [user]}


async def write_seed(target: Path, blueprint: Blueprint, find_agent: Callable[[], Awaitable[Path]]) -> None:
    """Make the ISO at `target`, of an instance that has one; one that says the same is kept."""
    if not blueprint.spec.seeded:
        return
    agent = await find_agent()
    texts = {
        "meta-data": meta_data(blueprint),
        "user-data": blueprint.spec.cloud_init.user_data or "#cloud-config\n{}",
        "vendor-data": vendor_data(blueprint),
        "agent.service": _UNIT,
        **dict(blueprint.spec.cloud_init.files),
    }
    mark = target.with_suffix(".sum")
    said = (texts["meta-data"], blueprint.spec.cloud_init, _AGENT_SETUP, _UNIT, agent.stat().st_mtime_ns)
    sum = hashlib.sha256(repr(said).encode()).hexdigest()
    if target.exists() and mark.exists() and mark.read_text() == sum:
        return
    with tempfile.TemporaryDirectory(prefix="seed-", dir=target.parent) as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text)
        shutil.copyfile(agent, folder / "agent")
        part = target.with_suffix(".part")
        await run(["xorrisofs", "-quiet", "-V", "cidata", "-J", "-R", "-o", str(part), str(folder)], timeout=30)
        mark.unlink(missing_ok=True)
        part.rename(target)
        mark.write_text(sum)
