"""What one request sees: the things of ours that its tables are made of, each read at most once.

However many VMs there are, a table costs a fixed number of questions to the engine: all of a kind is read at once and
put together here. A request that is about one VM says so (`only`), and no other is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from polyvisor.dialects.vergeos.samples import Samples
from polyvisor.dialects.vergeos.sources import (
    COPY,
    DIALECT,
    Device,
    Drive,
    File,
    Machine,
    Net,
    Nic,
    Node,
    Snap,
    Vm,
    data_of,
    seconds,
)
from polyvisor.engine import Engine
from polyvisor.model.foreign import Row
from polyvisor.model.ids import InstanceId, ProjectId, VolumeId
from polyvisor.model.instance import Instance
from polyvisor.model.network import bridged_mac, mac_of
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.snapshot import Snapshot
from polyvisor.model.volume import DATA, Volume, VolumeState

_MOST = 1_000_000
_OF_VMS = (("vms", "machines", "machine_snapshots"), ("machine_drives", "machine_nics", "machine_devices"))
"""Tables of rows that belong to VMs, those together that are read at once."""
FOREIGN = "engine/"
"""How the rows of snapshots begin that another dialect took."""
DEFAULT_NET = "Internal"
"""What the default network is called here."""


class World:
    """Read anew for each request; `principal` sees in it what it may see."""

    def __init__(
        self,
        core: Engine,
        principal: Principal,
        now: int,
        samples: Samples,
        only: Collection[InstanceId] | None = None,
    ) -> None:
        self.samples = samples
        self.core = core
        self.principal = principal
        self.now = now
        self._only = only
        self._made: dict[str, Any] = {}
        self._rows: dict[str, dict[str, Row]] = {}

    @property
    def only_one(self) -> InstanceId | None:
        """The one VM that the request is about, if it is."""
        return next(iter(self._only)) if self._only is not None and len(self._only) == 1 else None

    def whole(self) -> World:
        """With every VM that the caller sees: for what has to differ from all the others'."""
        return self if self._only is None else World(self.core, self.principal, self.now, self.samples)

    def about(self, some: Collection[InstanceId]) -> World:
        """With these VMs alone."""
        return World(self.core, self.principal, self.now, self.samples, some)

    async def called(self, name: str) -> Sequence[Vm]:
        """The VMs of that name, among all that the caller sees."""
        ids = await self.core.foreigners.called(self.principal, DIALECT, "vm", name)
        return [vm for vm in await self.about(ids).live() if vm.name == name]

    # -- what is read ------------------------------------------------------------------------------------------------

    async def root(self) -> ProjectId:
        """The project that what is everybody's belongs to."""
        if "root" not in self._made:
            self._made["root"] = (await self.core.numbers.project(0)).id
        found: ProjectId = self._made["root"]
        return found

    async def instances(self) -> Mapping[InstanceId, Instance]:
        """Those that the caller may see."""
        if "instances" not in self._made:
            if not self.principal.may_somewhere(Action.INSTANCE_VIEW):
                found = []
            elif self._only is not None:
                found = [one for id in self._only if (one := await self._one(id)) is not None]
            else:
                found = list((await self.core.instances.list(self.principal, None, _MOST)).items)
            self._made["instances"] = {one.id: one for one in found}
        known: Mapping[InstanceId, Instance] = self._made["instances"]
        return known

    async def _one(self, id: InstanceId) -> Instance | None:
        for one in (await self.core.instances.list(self.principal, None, 1, prefix=id)).items:
            return one
        return None

    async def volumes(self) -> Mapping[VolumeId, Volume]:
        """All of them: what of a volume is shown is a drive of a VM that may be seen, or a file that may be."""
        if "volumes" not in self._made:
            self._made["volumes"] = {one.id: one for one in await self.core.numbers.volumes()}
        found: Mapping[VolumeId, Volume] = self._made["volumes"]
        return found

    async def engine_snapshots(self) -> Sequence[Snapshot]:
        """Those that were taken through any API, of instances that the caller sees."""
        if "engine_snapshots" not in self._made:
            self._made["engine_snapshots"] = []
            if self.principal.may_somewhere(Action.SNAPSHOT_VIEW):
                one = next(iter(self._only)) if self._only is not None and len(self._only) == 1 else None
                if one is None or await self._one(one) is not None:
                    page = await self.core.snapshots.list(self.principal, None, _MOST, one)
                    self._made["engine_snapshots"] = list(page.items)
        found: Sequence[Snapshot] = self._made["engine_snapshots"]
        return found

    async def rows(self, kind: str) -> list[Row]:
        """Rows of this dialect, of one of its tables, oldest first."""
        return list((await self.named(kind)).values())

    async def named(self, kind: str) -> Mapping[str, Row]:
        """The same by name."""
        if kind not in self._rows:
            kinds, subjects = _with(kind), None
            if self._only is not None and len(kinds) > 1:
                subjects = [*self._only, "", *(one.id for one in await self.engine_snapshots())]
            self._rows |= {one: {} for one in kinds}
            for row in await self.core.rows.of(DIALECT, kinds, subjects):
                self._rows[row.kind][row.name] = row
        return self._rows[kind]

    async def ensure(self, wanted: Sequence[Row]) -> None:
        """Give keys to what has none, and read them."""
        if wanted:
            await self.core.rows.ensure(wanted)
            for kind in {one for row in wanted for one in _with(row.kind)}:
                self._rows.pop(kind, None)

    async def once(self, name: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """What `make` makes, made for this request once."""
        if name not in self._made:
            self._made[name] = await make()
        return self._made[name]

    def forget(self) -> None:
        """Something was changed: all is read anew."""
        self._made.clear()
        self._rows.clear()

    # -- VMs ---------------------------------------------------------------------------------------------------------

    async def live(self) -> Sequence[Vm]:
        """The instances, as VMs."""
        if "live" not in self._made:
            instances = await self.instances()
            known, machines = await self.named("vms"), await self.named("machines")
            new = [one for one in instances.values() if one.id not in known or one.id not in machines]
            if new:
                told = await self.core.foreigners.remainders(DIALECT, [one.id for one in new])
                wanted = [
                    Row(DIALECT, kind, one.id, one.project, one.id, told.get(one.id, "{}") if kind == "vms" else "{}")
                    for one in new
                    for kind in ("vms", "machines")
                ]
                await self.ensure(wanted)
                known, machines = await self.named("vms"), await self.named("machines")
            self._made["live"] = [
                Vm(known[one.id].key, machines[one.id].key, known[one.id], one)
                for one in instances.values()
                if one.id in known and one.id in machines  # the others have gone since they were read
            ]
        found: Sequence[Vm] = self._made["live"]
        return found

    async def snaps(self) -> Sequence[Snap]:
        """The snapshots of VMs that are there."""
        if "snaps" not in self._made:
            live = {vm.row.name: vm for vm in await self.live()}
            engine = {one.id: one for one in await self.engine_snapshots()}
            own = [row for row in await self.rows("machine_snapshots") if not row.name.startswith(FOREIGN)]
            covered = {str(data_of(row).get("engine", "")) for row in own}
            foreign = [one for one in engine.values() if one.id not in covered and one.source in live]
            wanted = [Row(DIALECT, "machine_snapshots", f"{FOREIGN}{one.id}", one.project, one.id) for one in foreign]
            names = [row.name for row in own] + [row.name for row in wanted]
            subjects = {row.name: (row.project, row.subject) for row in [*own, *wanted]}
            wanted += [
                Row(DIALECT, kind, f"snap/{name}", *subjects[name]) for name in names for kind in ("vms", "machines")
            ]
            await self.ensure([row for row in wanted if row.name not in await self.named(row.kind)])
            self._made["snaps"] = await self._snaps(live, engine)
        found: Sequence[Snap] = self._made["snaps"]
        return found

    async def _snaps(self, live: Mapping[str, Vm], engine: Mapping[Any, Snapshot]) -> list[Snap]:
        vms, machines = await self.named("vms"), await self.named("machines")
        made = []
        for row in await self.rows("machine_snapshots"):
            is_foreign = row.name.startswith(FOREIGN)
            kept = engine.get(row.subject if is_foreign else data_of(row).get("engine"))
            source = live.get(kept.source if is_foreign and kept is not None else row.subject)
            hidden = f"snap/{row.name}"
            if source is None or (is_foreign and kept is None) or hidden not in vms or hidden not in machines:
                continue
            made.append(Snap(row, vms[hidden].key, machines[hidden].key, source.machine, kept))
        return made

    async def vms(self) -> Sequence[Vm]:
        """With the hidden ones that stand for snapshots."""
        if "vms" not in self._made:
            hidden = [Vm(one.vm_key, one.machine, one.row, None, one) for one in await self.snaps()]
            self._made["vms"] = [*await self.live(), *hidden]
        found: Sequence[Vm] = self._made["vms"]
        return found

    async def machines(self) -> Sequence[Machine]:
        """Those of VMs, of the node and of networks."""
        if "machines" not in self._made:
            node = await self.node()
            here = (node.key, await self.cluster(), self.now)
            made = [Machine(node.machine, "node", "node1", *here, report=node.report)]
            made += [Machine(net.machine, "vnet", net.name, *here) for net in await self.nets()]
            for vm in await self.vms():
                booted = vm.instance.observed.booted if vm.instance is not None else None
                made.append(Machine(vm.machine, "vm", vm.name, *here, vm, vm.runs, seconds(booted)))
            self._made["machines"] = made
        found: Sequence[Machine] = self._made["machines"]
        return found

    # -- drives and NICs -----------------------------------------------------------------------------------------------

    async def drives(self) -> Sequence[Drive]:
        """Of VMs that are there."""
        return [drive for drive in await self.all_drives() if not drive.leaves]

    async def all_drives(self) -> Sequence[Drive]:
        """With those that are being taken away."""
        if "drives" not in self._made:
            live, volumes = await self.live(), await self.volumes()
            await self.ensure(_unlisted(live, await self.rows("machine_drives")))
            places: dict[str, int] = {}
            by_id = {vm.row.name: vm for vm in live}
            made = []
            for row in await self.rows("machine_drives"):
                vm, kept = by_id.get(row.subject), data_of(row)
                if vm is None or vm.instance is None:
                    continue
                place = places[row.subject] = places.get(row.subject, -1) + 1
                volume = volumes.get(VolumeId(str(kept.get("volume", ""))))
                mount = next((one for one in vm.instance.mounts if volume and one.volume == volume.id), None)
                own = bool(kept.get("own"))
                if kept.get("found") and mount is None and not own:  # somebody else has detached it
                    continue
                used = 0 if volume is None else self.core.media.used(volume)
                made.append(Drive(row, vm, place, own, volume, mount, used))
            self._made["drives"] = made
        found: Sequence[Drive] = self._made["drives"]
        return found

    async def files(self) -> Sequence[File]:
        """The media catalogue: volumes of bytes that the caller may see and that are no VM's own drive."""
        if "files" not in self._made:
            volumes = await self.volumes()
            rows = await self.core.rows.of(DIALECT, ["machine_drives"])  # of all VMs, whoever is asked about
            drives = {str(data_of(row).get("volume")) for row in rows if data_of(row).get("owned")}
            known = await self.named("files")
            seen = [one for one in volumes.values() if self._is_file(one) and one.id not in drives]
            wanted = [Row(DIALECT, "files", one.id, one.project, one.id) for one in seen if one.id not in known]
            await self.ensure(wanted)
            known = await self.named("files")
            self._made["files"] = [
                File(known[one.id], one, self.core.media.used(one)) for one in seen if one.id in known
            ]
        found: Sequence[File] = self._made["files"]
        return found

    def _is_file(self, volume: Volume) -> bool:
        seen = self.principal.may(Action.VOLUME_VIEW, volume.project)
        return seen and volume.kind not in (DATA, COPY) and volume.state is VolumeState.READY

    async def nics(self) -> Sequence[Nic]:
        """Of VMs that are there."""
        if "nics" not in self._made:
            live = await self.live()
            await self.ensure(_unlisted_nics(live, await self.rows("machine_nics")))
            by_id: dict[str, list[Row]] = {vm.row.name: [] for vm in live}
            for row in await self.rows("machine_nics"):
                if row.subject in by_id:
                    by_id[row.subject].append(row)
            keys = {net.host_nic: net.key for net in await self.nets()}
            self._made["nics"] = [nic for vm in live for nic in _nics_of(vm, by_id[vm.row.name], keys)]
        found: Sequence[Nic] = self._made["nics"]
        return found

    async def devices(self) -> Sequence[Device]:
        """Of VMs that are there. The row of a TPM that was taken out tells of nothing any more."""
        if "devices" not in self._made:
            there = {}
            for vm in await self.live():
                assert vm.instance is not None
                if vm.instance.spec.then.tpm.id:
                    there[f"{vm.instance.id}/{vm.instance.spec.then.tpm.id}"] = vm
            known = await self.named("machine_devices")
            told = json.dumps({"name": "device_0"})
            await self.ensure(
                [Row(DIALECT, "machine_devices", name, vm.project, vm.row.name, told)
                 for name, vm in there.items() if name not in known]
            )  # fmt: skip
            rows = await self.rows("machine_devices")
            self._made["devices"] = [Device(row, there[row.name]) for row in rows if row.name in there]
        found: Sequence[Device] = self._made["devices"]
        return found

    # -- the host ------------------------------------------------------------------------------------------------------

    async def nets(self) -> Sequence[Net]:
        """The default network and the operator's bridges."""
        if "nets" not in self._made:
            names = [DEFAULT_NET, *(nic.name for nic in await self.core.nics.list(SYSTEM))]
            await self._number(("vnets", name) for name in names)
            await self._number(("machines", f"net/{name}") for name in names)
            keys, machines = await self.named("vnets"), await self.named("machines")
            made = []
            for name in names:
                described = next((n.description for n in await self.core.nics.list(SYSTEM) if n.name == name), "")
                kind, nic = ("internal", "") if name == DEFAULT_NET else ("external", name)
                made.append(Net(keys[name].key, machines[f"net/{name}"].key, name, kind, nic, described))
            self._made["nets"] = made
        found: Sequence[Net] = self._made["nets"]
        return found

    async def node(self) -> Node:
        """This host."""
        if "node" not in self._made:
            await self._number([("nodes", "node1"), ("machines", "node"), ("clusters", "cluster1")])
            report = (await self.core.hosts.list(SYSTEM))[0]
            usage = await self.core.hosts.usage(SYSTEM)
            keys, machines = await self.named("nodes"), await self.named("machines")
            self._made["node"] = Node(
                keys["node1"].key, machines["node"].key, report, await self.cluster(), self.now, usage.memory,
                usage.vcpus, usage.instances, {"kernel": os.uname().release},
            )  # fmt: skip
        found: Node = self._made["node"]
        return found

    async def cluster(self) -> int:
        """The key of the one cluster."""
        await self._number([("clusters", "cluster1")])
        return (await self.named("clusters"))["cluster1"].key

    async def _number(self, wanted: Any) -> None:
        """Keys for what belongs to nobody."""
        root = await self.root()
        new = [Row(DIALECT, kind, name, root) for kind, name in wanted if name not in await self.named(kind)]
        await self.ensure(new)


def _with(kind: str) -> tuple[str, ...]:
    """The tables that are read with that one."""
    return next((some for some in _OF_VMS if kind in some), (kind,))


def _unlisted(live: Sequence[Vm], rows: Sequence[Row]) -> list[Row]:
    """Drives that somebody else gave a VM: its image's disk, and volumes."""
    known = {(row.subject, str(data_of(row).get("volume", "") or "own")) for row in rows}
    wanted = []
    for vm in live:
        assert vm.instance is not None
        here = vm.instance
        found = [] if here.spec.blank else [("own", "drive_0")]
        found += [(str(mount.volume), mount.name) for mount in here.mounts]
        for volume, name in found:
            if (here.id, volume) not in known:
                told = {"own": True} if volume == "own" else {"volume": volume, "found": True}
                data = json.dumps({"name": name, **told})
                wanted.append(Row(DIALECT, "machine_drives", f"{here.id}/{volume}", here.project, here.id, data))
    return wanted


def _unlisted_nics(live: Sequence[Vm], rows: Sequence[Row]) -> list[Row]:
    """NICs that a VM has and that no row tells of."""
    listed: dict[str, list[str]] = {}
    for row in rows:
        if data_of(row).get("enabled", True):
            listed.setdefault(row.subject, []).append(str(data_of(row).get("net", "")))
    wanted = []
    for vm in live:
        assert vm.instance is not None
        here, left = vm.instance, list(listed.get(vm.instance.id, []))
        spec = here.spec.then
        for place, net in enumerate([*([""] if spec.network else []), *spec.bridged]):
            if net in left:
                left.remove(net)
                continue
            data = json.dumps({"name": f"nic_{place}", "net": net})
            wanted.append(Row(DIALECT, "machine_nics", f"{here.id}/{place}/{net}", here.project, here.id, data))
    return wanted


def _nics_of(vm: Vm, rows: Sequence[Row], keys: Mapping[str, int]) -> list[Nic]:
    """Rows beside what the machine has now, in order: those of the default network first, as the machine has them."""
    assert vm.instance is not None
    here, spec = vm.instance, vm.instance.spec
    has = [*([""] if spec.network else []), *spec.bridged]
    free = list(range(len(has)))
    made = []
    for place, row in enumerate(rows):
        kept = data_of(row)
        net = str(kept.get("net", ""))
        index = next((at for at in free if has[at] == net), None) if kept.get("enabled", True) else None
        mac, ip = str(kept.get("mac", "")), ""
        if index is not None:
            free.remove(index)
            given = spec.macs[index] if index < len(spec.macs) else ""
            at = index - (1 if spec.network else 0)
            mac = given or (bridged_mac(here.id, at) if at >= 0 else mac_of(here.id))
            if at < 0 and here.address is not None:
                mac, ip = given or here.address.mac, here.address.ip
        made.append(Nic(row, vm, place, index, mac or mac_of(InstanceId(row.name)), ip, keys.get(net)))
    return made
