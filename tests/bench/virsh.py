"""libvirt beside us, where Debian's is installed: the same guest under a daemon of our own, in a directory of its own.

The daemon is a session's, run by nobody: it has no network, no unit and no group of the machine's, and ends by its pid.
One virsh stays connected, so that neither side's start of a client counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from bench.raw import LIMIT, Twin
from polyvisor.host.guest.agent import Agent
from polyvisor.model.guest import Exec, Exit

_NOBODY = 65534
_START_LIMIT = 60.0
_DOMAIN = """<domain type='{kind}'>
<name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{here}/vmlinux</kernel><initrd>{here}/initrd</initrd>
<cmdline>{line}</cmdline></os>
<features><acpi/></features>{cpu}
<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
<sysinfo type='fwcfg'><entry name='opt/polyvisor/config' file='{here}/config'/></sysinfo>
<devices><emulator>{binary}</emulator><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{here}/root'/><backingStore/>
<target dev='vda' bus='virtio'/><readonly/><serial>pvroot</serial><address type='pci' bus='0' slot='2'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{here}/{name}.qcow2'/>
<backingStore type='file'><format type='raw'/><source file='{here}/blank'/><backingStore/></backingStore>
<target dev='vdb' bus='virtio'/><serial>pvdata</serial><address type='pci' bus='0' slot='3'/></disk>
<interface type='user'><model type='virtio'/><rom enabled='no'/><address type='pci' bus='0' slot='4'/></interface>
<controller type='virtio-serial'><address type='pci' bus='0' slot='5'/></controller>
<serial type='file'><source path='{here}/{name}.console'/></serial>
<channel type='unix'><source mode='bind' path='{here}/{name}.sock'/>
<target type='virtio' name='polyvisor.agent'/></channel>
<channel type='file'><source path='{here}/{name}.journal'/><target type='virtio' name='polyvisor.journal'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend><address type='pci' bus='0' slot='6'/></rng>
</devices></domain>
"""


def _cpu(option: str) -> str:
    """As QEMU's option says."""
    model, *features = option.split(",")
    off = [feature.removesuffix("=off") for feature in features if feature.endswith("=off")]
    disabled = [f"<feature policy='disable' name='{name}'/>" for name in off]
    mode = {"max": "maximum", "host": "host-passthrough"}[model]
    return f"<cpu mode='{mode}'>{''.join(disabled)}</cpu>"


def is_installed() -> bool:
    """Whether there is a libvirt with its QEMU driver, and we may run it as another user."""
    driver = any(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"))
    return bool(driver and shutil.which("libvirtd") and shutil.which("virsh") and os.geteuid() == 0)


@dataclass
class Libvirt:
    """A daemon and a client that is connected to it."""

    here: Path
    twin: Twin
    accelerator: str
    virsh: subprocess.Popen[bytes]
    count: int = 0

    def ask(self, *commands: str) -> float:
        """Those, one after another. Milliseconds."""
        assert self.virsh.stdin is not None
        assert self.virsh.stdout is not None
        self.count += 1
        mark = f"over-{self.count}"
        begun = time.monotonic()
        self.virsh.stdin.write("\n".join([*commands, f"echo {mark}", ""]).encode())
        self.virsh.stdin.flush()
        said = b""
        while f"\n{mark}".encode() not in said:  # what it is told it says again, after a prompt
            ready, _, _ = select.select([self.virsh.stdout], [], [], LIMIT)
            piece = os.read(self.virsh.stdout.fileno(), 65536) if ready else b""
            assert piece, (commands, said)
            said += piece
        took = (time.monotonic() - begun) * 1000
        assert b"error:" not in said, said.decode(errors="replace")
        return took

    def prepare(self, name: str, memory: int) -> Path:
        """A disk, and the description of a machine, which libvirt does not know yet."""
        disk = self.here / f"{name}.qcow2"
        back = ["-F", "raw", "-b", str(self.here / "blank")]
        subprocess.run(
            ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *back, str(disk), self.twin.disk], check=True, timeout=30
        )
        os.chown(disk, _NOBODY, _NOBODY)
        kind = "kvm" if self.accelerator == "kvm" else "qemu"
        words = self.twin.words
        file = self.here / f"{name}.xml"
        file.write_text(
            _DOMAIN.format(
                kind=kind, name=name, memory=memory, here=self.here, cpu=_cpu(words[words.index("-cpu") + 1]),
                binary=shutil.which(words[0]) or words[0], line=escape(words[words.index("-append") + 1]),
            )
        )  # fmt: skip
        file.chmod(0o644)
        return file

    async def agent(self, name: str) -> Agent:
        """Once it has answered."""
        return await Agent.connect(self.here / f"{name}.sock", LIMIT)

    def forget(self, name: str) -> None:
        """End it; libvirt does not know it any more."""
        self.ask(f"destroy {name}", f"undefine {name}")


@dataclass
class Domain:
    """A machine under libvirt whose agent has answered."""

    libvirt: Libvirt
    name: str
    took: dict[str, list[float]] = field(default_factory=dict)

    async def run(self, *argv: str) -> None:
        """A command in the guest, to its end, which must be a good one."""
        agent = await self.libvirt.agent(self.name)
        try:
            process = await agent.execute(Exec(argv))
            try:
                while not isinstance(said := await process.read(), Exit):
                    pass
                assert said.code == 0, said
            finally:
                await process.close()
        finally:
            await agent.close()

    def note(self, what: str, milliseconds: float) -> None:
        """One more figure."""
        self.took.setdefault(what, []).append(milliseconds)

    async def save_and_restore(self) -> None:
        """To a file and back, until a command was answered."""
        file = self.libvirt.here / f"{self.name}.save"
        self.note("save", await asyncio.to_thread(self.libvirt.ask, f"save {self.name} {file}"))
        begun = time.monotonic()
        self.note("running", await asyncio.to_thread(self.libvirt.ask, f"restore {file}"))
        await self.run("true")
        self.note("answered", (time.monotonic() - begun) * 1000)


@contextlib.contextmanager
def libvirt(twin: Twin, accelerator: str) -> Iterator[Libvirt]:
    """One that is gone afterwards, with every machine of it."""
    here = Path(tempfile.mkdtemp(prefix="pv-virt-"))
    try:
        here.chmod(0o755)
        for source, name in (
            (twin.kernel, "vmlinux"), (twin.initrd, "initrd"), (twin.root, "root"), (twin.blank, "blank"),
        ):  # fmt: skip
            subprocess.run(["cp", "--sparse=always", source, here / name], check=True, timeout=60)
        (here / "config").write_bytes(twin.config)
        config = here / "config.d" / "libvirt"
        config.mkdir(parents=True)
        (config / "qemu.conf").write_text('stdio_handler = "file"\n')  # no second daemon
        for path in (here, *here.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY)
        with _daemon(here) as env, _client(here, env) as virsh:
            yield Libvirt(here, twin, accelerator, virsh)
    finally:
        shutil.rmtree(here, ignore_errors=True)


def _as_nobody(*words: str) -> list[str]:
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *words]


@contextlib.contextmanager
def _daemon(here: Path) -> Iterator[dict[str, str]]:
    folders = {"HOME": "home", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config.d", "XDG_CACHE_HOME": "cache"}
    env = {"PATH": os.environ["PATH"], "LIBVIRT_AUTOSTART": "0", "LC_ALL": "C"}
    env |= {name: str(here / folder) for name, folder in folders.items()}
    with (here / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(_as_nobody("libvirtd"), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _START_LIMIT
        while not (here / "run" / "libvirt" / "libvirt-sock").exists():
            assert time.monotonic() < end, (here / "daemon.log").read_text()
            assert daemon.poll() is None, (here / "daemon.log").read_text()
            time.sleep(0.05)
        yield env
    finally:
        daemon.terminate()
        daemon.wait(30)
        for file in here.glob("run/libvirt/qemu/run/*.pid"):  # what was not ended in good order
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


@contextlib.contextmanager
def _client(here: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    words = _as_nobody("stdbuf", "-oL", "virsh", "-q", "-c", "qemu:///session")
    virsh = subprocess.Popen(
        words, env=env, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield virsh
    finally:
        assert virsh.stdin is not None
        assert virsh.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            virsh.stdin.close()
        virsh.stdout.close()
        try:
            virsh.wait(10)
        except subprocess.TimeoutExpired:
            virsh.kill()
            virsh.wait()
