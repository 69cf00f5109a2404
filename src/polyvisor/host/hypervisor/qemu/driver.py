"""The QEMU driver: launch, adopt, check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from polyvisor.host.hypervisor.qemu import discard, tpm
from polyvisor.host.hypervisor.qemu.argv import FULL, MICRO, Facts, argv, files
from polyvisor.host.hypervisor.qemu.cpu import cpu_of
from polyvisor.host.hypervisor.qemu.live import QemuVm
from polyvisor.host.hypervisor.qemu.probe import find_accelerator
from polyvisor.host.hypervisor.qemu.process import find_all, is_alive, record_of, start
from polyvisor.host.hypervisor.qemu.qmp import Qmp
from polyvisor.host.hypervisor.qemu.tsc import measure_khz
from polyvisor.host.network import passt
from polyvisor.host.network.bridged import open_bridged
from polyvisor.host.network.tap import open_tap
from polyvisor.host.paths import AGENT_SOCKET, CONSOLE_SOCKET, NVRAM, QMP_SOCKET, VMM_LOG
from polyvisor.host.pids import Process, uid_of
from polyvisor.host.run import run
from polyvisor.host.sockets import listen_unix
from polyvisor.model.faults import Fault, Internal, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import machine_uuid
from polyvisor.model.instance import RunRecord
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.ports.hypervisor import Gone, Machine, Memory, Saved, TapNic, UserNic

_BINARY = "qemu-system-x86_64"
_LAUNCH_LIMIT = 30.0
_ADOPT_LIMIT = 3.0
_OVMF = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
)
_FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_RDWR,
    "append": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
}


async def open_qemu(folder: Path | None = None) -> Qemu:
    """The driver for this host; what it makes for itself is kept in `folder`. Without one no machine has a balloon.

    :raise Unsupported: no QEMU here, or it cannot run a guest.
    """
    binary = shutil.which(_BINARY)
    if binary is None:
        raise Unsupported(f"{_BINARY} is not installed (Debian: apt-get install qemu-system-x86)")
    banner = (await run([binary, "--version"], timeout=10)).out.decode()
    version = banner.split("version ")[-1].split()[0]
    accelerator = await find_accelerator(binary)
    code, variables = next(
        ((Path(c), Path(v)) for c, v in _OVMF if Path(c).exists() and Path(v).exists()), (None, None)
    )
    tsc = await asyncio.to_thread(measure_khz) if accelerator.name == "tcg" else 0
    cpu = cpu_of(accelerator, tsc)
    library = None if folder is None else await discard.build(folder)
    return Qemu(Facts(binary, version, accelerator, code, variables, tsc, cpu, library, tpm.is_installed()))


class Qemu:
    """A Hypervisor."""

    name = "qemu"

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.version = facts.version
        self.accelerator = facts.accelerator.name
        self.cpu = facts.guest_cpu
        self.refused = facts.accelerator.refused
        can = {"micro": True, "bios": True, "hotplug": True, "memory": True}
        can |= {"uefi": facts.ovmf_code is not None, "balloon": facts.discard is not None, "tpm": facts.tpm}
        self.abilities = frozenset(name for name, able in can.items() if able)

    def machine(self, spec: Spec) -> str:
        """See Hypervisor. Its version is QEMU's own."""
        full = f"{FULL} {spec.firmware}" + (" tpm" if spec.has_tpm else "")
        return MICRO if spec.shape is Shape.MICRO else full

    def check(self, blueprint: Blueprint) -> None:
        """See Hypervisor."""
        if blueprint.spec.firmware is Firmware.UEFI and "uefi" not in self.abilities:
            raise Unsupported("firmware: UEFI is not installed here (Debian: ovmf)", field="firmware")
        tpm.require(blueprint.spec, able=self.facts.tpm)

    async def launch(self, machine: Machine) -> QemuVm:
        """See Hypervisor."""
        self._make_nvram(machine)
        return await self._start(machine, restoring=False)

    async def restore(self, machine: Machine, saved: Saved) -> QemuVm:
        """See Hypervisor. What could boot a kernel is left out: this process never does, and it would be 14 MiB."""
        vm = await self._start(replace(machine, kernel=None, initrd=None, layout=saved.layout), restoring=True)
        try:
            await vm.load(saved)
        except (Fault, TimeoutError, OSError) as error:
            await vm.kill()
            words = _last_words(machine.directory / VMM_LOG)
            raise Internal("the saved state cannot be loaded", private=f"{error!r} {words}") from error
        except BaseException:
            await vm.kill()
            raise
        return vm

    async def _start(self, machine: Machine, *, restoring: bool) -> QemuVm:
        tpm.require(machine.blueprint.spec, able=self.facts.tpm)
        uid = uid_of(machine.blueprint.number) if os.geteuid() == 0 else None
        with _Handles() as handles:
            fds = handles.open(machine, self.facts, uid)
            joined = handles.join(machine, fds, uid)
            log = handles.log(machine)
            line = argv(machine, self.facts, fds, restoring=restoring)
            try:
                process = await start(line, fds=sorted(fds.values()), log=log, uid=uid, env=handles.environment)
            except BaseException:
                await _ended(joined)
                raise
            try:
                helper = await handles.tpm(machine, log, uid)
            except BaseException:
                await process.kill()
                await _ended(joined)
                raise
        record = record_of(
            process.pid, machine_uuid(machine.blueprint.id), binary=self.facts.binary, version=self.version,
            accelerator=self.accelerator,
        )  # fmt: skip
        try:
            qmp = await self._greet(machine, process)
            if handles.environment:
                discard.require_loaded(process.pid, self.facts.discard)
            await joined
        except BaseException:
            await process.kill()
            await tpm.end(machine.directory)
            await _ended(joined)
            raise
        vm = QemuVm(machine.directory, machine.blueprint.spec, record, process, qmp)
        vm.helper = helper
        try:
            await vm.throttle()
        except BaseException:
            await vm.kill()
            raise
        return vm

    async def _greet(self, machine: Machine, process: Process) -> Qmp:
        """The first QMP session; a process that ends instead is reported with its own last words."""
        greeting = asyncio.create_task(Qmp.connect(machine.directory / QMP_SOCKET, _LAUNCH_LIMIT))
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({greeting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done() and not greeting.exception():
                return greeting.result()
            if not process.ended:
                await asyncio.wait({ending}, timeout=1.0)
            raise Internal("the hypervisor did not start", private=_last_words(machine.directory / VMM_LOG))
        finally:
            for task in (greeting, ending):
                if not task.done():
                    task.cancel()
            await asyncio.gather(greeting, ending, return_exceptions=True)

    def _make_nvram(self, machine: Machine) -> None:
        vars_file = machine.directory / NVRAM
        if machine.blueprint.spec.firmware is Firmware.UEFI and not vars_file.exists():
            assert self.facts.ovmf_vars
            part = vars_file.with_suffix(".part")
            shutil.copyfile(self.facts.ovmf_vars, part)
            part.rename(vars_file)

    async def adopt(self, machine: Machine, record: RunRecord) -> QemuVm:
        """See Hypervisor."""
        if not is_alive(record):
            raise Gone(record.uuid)
        try:
            process = Process(record.pid)
        except ProcessLookupError as error:
            raise Gone(record.uuid) from error
        qmp: Qmp | None = None
        with contextlib.suppress(Fault):  # a deaf one is still ours: it is asked again at every look
            qmp = await Qmp.connect(machine.directory / QMP_SOCKET, _ADOPT_LIMIT)
        return QemuVm(machine.directory, machine.blueprint.spec, record, process, qmp, adopted=True)

    def proof(self, machine: Machine, pid: int) -> RunRecord:
        """See Hypervisor."""
        return record_of(
            pid,
            machine_uuid(machine.blueprint.id),
            binary=self.facts.binary,
            version="",
            accelerator=self.accelerator,
        )

    def find(self) -> list[tuple[int, str]]:
        """See Hypervisor."""
        return find_all()

    async def sweep(self, instances: Path, running: Collection[str]) -> None:
        """See Hypervisor."""
        await tpm.sweep(instances, running)


async def _ended(joined: asyncio.Future[None]) -> None:
    joined.cancel()
    await asyncio.gather(joined, return_exceptions=True)


def _last_words(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_bytes()[-2000:].decode(errors="replace").strip()
    return ""


class _Handles:
    """Descriptors opened for a launch, all closed on our side when it is over."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._sockets: list[socket.socket] = []
        self._tpm: socket.socket | None = None  # the end that is not the hypervisor's
        self.environment: dict[str, str] = {}

    def __enter__(self) -> _Handles:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
        for sock in self._sockets:
            sock.close()

    def open(self, machine: Machine, facts: Facts, uid: int | None) -> dict[str, int]:
        """Every descriptor of `argv`, by key."""
        found: dict[str, int] = {}
        for wanted in files(machine, facts):
            fd = os.open(wanted.path, _FLAGS[wanted.mode] | os.O_CLOEXEC, 0o600)
            self._fds.append(fd)
            found[wanted.key] = fd
            if wanted.key == "config" and uid is not None:
                os.fchown(fd, uid, uid)  # opened anew by its number, so it must be the process's own
        if machine.memory is not None:
            found["memory"] = self._memory(machine.memory, uid)
            if facts.discard is not None and not machine.memory.own:
                found["discard"] = os.open(facts.discard, os.O_RDONLY | os.O_CLOEXEC)
                self._fds.append(found["discard"])
                self.environment = discard.environment(found["discard"], found["memory"])
        for key, name in (("qmp", QMP_SOCKET), ("console-socket", CONSOLE_SOCKET), ("agent", AGENT_SOCKET)):
            sock = listen_unix(machine.directory / name)
            self._sockets.append(sock)
            found[key] = sock.fileno()
        if machine.blueprint.spec.has_tpm:
            ours, self._tpm = socket.socketpair()
            self._sockets += [ours, self._tpm]
            found["tpm"] = ours.fileno()
        if isinstance(machine.nic, TapNic):
            tap = open_tap(machine.nic.device) if machine.nic.fd is None else os.dup(machine.nic.fd)
            self._fds.append(tap)
            found["tap"] = tap
        for index, nic in enumerate(machine.bridged):
            self._fds.append(fd := open_bridged(nic))
            found[f"bridged{index}"] = fd
        return found

    def _memory(self, memory: Memory, uid: int | None) -> int:
        """Opened anew by its number too, and to write, even where it is mapped privately."""
        if isinstance(memory.file, int):
            fd = os.dup(memory.file)
            self._fds.append(fd)
            return fd
        fd = os.open(memory.file, os.O_RDWR | os.O_CLOEXEC)
        self._fds.append(fd)
        if uid is not None:
            os.fchown(fd, uid, uid)
        return fd

    def join(self, machine: Machine, found: dict[str, int], uid: int | None) -> asyncio.Future[None]:
        """A user-mode machine's way out, once it is there. It ends when the last copy of its descriptor is closed."""
        address = machine.blueprint.address
        if isinstance(machine.nic, UserNic) and address is not None:
            sock, joined = passt.join(machine.nic, address, uid)
            self._sockets.append(sock)
            found["net"] = sock.fileno()
            return joined
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def tpm(self, machine: Machine, log: int, uid: int | None) -> Process | None:
        """What the hypervisor asks for a TPM's answers as soon as it is there; None: it has none."""
        if self._tpm is None:
            return None
        return await tpm.begin(machine.directory, machine.blueprint.spec, self._tpm.fileno(), log=log, uid=uid)

    def log(self, machine: Machine) -> int:
        """Where the process's own words go."""
        fd = os.open(machine.directory / VMM_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._fds.append(fd)
        return fd
