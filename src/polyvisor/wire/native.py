"""JSON bodies of `/api/v1`. Sizes are bytes, times are RFC 3339 in UTC, durations are seconds.

Requests refuse unknown fields: a field that is accepted has an effect.
"""

from __future__ import annotations

from datetime import date, datetime
from datetime import time as ClockTime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

LARGEST = 2**63 - 1  # what stores and guests can count to


def _sane(text: str) -> str:
    """No text with these can reach a guest, a file name or every kind of store."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise PydanticCustomError("text", "must not hold a NUL character or half of a surrogate pair")
    return text


def _size(value: Any) -> int | str:
    """One validator instead of a union, whose errors would name the branch beside the field."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return value
    if isinstance(value, str) and len(value) <= 32 and value.isascii():
        return value
    raise PydanticCustomError("size", "must be a number of bytes, or text such as 512M or 2G")


def _size_or_none(value: Any) -> int | str:
    return 0 if value == 0 and not isinstance(value, bool) else _size(value)


def _duration(value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST:
        return float(value)  # NaN and infinity fail both comparisons
    if isinstance(value, str) and len(value) <= 32 and value.isascii():
        return value
    raise PydanticCustomError("duration", "must be a number of seconds, or text such as 30s or 1h30m")


Text = Annotated[str, AfterValidator(_sane)]
Size = Annotated[
    int | str,
    PlainValidator(_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}),
    Field(description="Bytes, or text such as `512M` or `2G` (powers of 1024)."),
]
SizeOrNone = Annotated[
    int | str,
    PlainValidator(_size_or_none),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
    Field(description="As a size; 0 too."),
]
Duration = Annotated[
    float | str,
    PlainValidator(_duration),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
    Field(description="Seconds, or text such as `30s` or `1h30m`."),
]
Compression = Annotated[
    str,
    Field(
        pattern=r"^(none|zstd(:[0-9]{1,2})?|lz4(:[0-9])?)$",
        description="How saved memory is compressed: `none`, `zstd`, `zstd:1` to `zstd:19`, `lz4`, `lz4:0` to `lz4:9`.",
    ),
]
CompressionPolicy = Annotated[
    str,
    Field(
        pattern=r"^(default|none|zstd(:[0-9]{1,2})?|lz4(:[0-9])?)$",
        description="As of a snapshot; `default`: as the server's settings say.",
    ),
]
Name = Annotated[Text, Field(min_length=1, max_length=63)]
EnvName = Annotated[Text, Field(min_length=1, max_length=256, pattern=r"^[^=]+$")]
Label = Annotated[Text, Field(min_length=1, max_length=128, pattern=r"^[^=]+$")]
Labels = Annotated[dict[Label, Annotated[Text, Field(max_length=1024)]], Field(max_length=64)]
State = Literal[
    "creating", "starting", "running", "pausing", "paused", "suspending", "suspended", "resuming", "stopping",
    "stopped", "deleting", "failed", "lost",
]  # fmt: skip
Until = Literal["accepted", "launched", "ready"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")


class PortRequest(_Request):
    """A host port that leads to a guest port; `host` 0 or absent: a free one."""

    guest: int = Field(ge=1, le=65535)
    host: int = Field(default=0, ge=0, le=65535)
    protocol: Literal["tcp", "udp"] = "tcp"


class _Mount(_Request):
    """A volume, by id or name. Without a path it is a bare block device."""

    volume: Name
    path: Text = ""
    read_only: bool = False
    bus: Literal["virtio", "usb"] = "virtio"


class MountRequest(_Mount):
    """A volume of a new instance. `overlay`: what the instance may write above one that it only reads."""

    overlay: Size | None = None


class CloudInitRequest(_Request):
    """First-boot data for disk images: cloud-init user data, and SSH keys for `user` (the image's default if empty)."""

    user_data: Text = Field(default="", max_length=65536)
    ssh_keys: list[Annotated[Text, Field(max_length=16384)]] = Field(default_factory=list, max_length=64)
    user: str = Field(default="", max_length=32, pattern=r"^([a-z_][a-z0-9_-]*)?$")


class RestartRequest(_Request):
    """When an instance that ended by itself is started again; `attempts` 0 is without limit.

    `backoff` seconds pass before the first attempt, twice as many before each next one, or, when `steady`, as many. A
    run of `stable` seconds forgets earlier attempts.
    """

    mode: Literal["never", "on-failure", "always"] = "never"
    attempts: int = Field(default=0, ge=0, le=1_000_000)
    backoff: float = Field(default=1.0, ge=0.001, le=3600)
    steady: bool = False
    stable: float = Field(default=60.0, gt=0, le=604_800)


class HealthRequest(_Request):
    """How it is found out whether the workload is well: `http` gets `path` at `port` (with `tls`, whatever the
    certificate) and wants `status`, `tcp` connects to `port`, `exec` runs `command` in the guest and wants 0.

    Until `start` has passed since its process began, nothing makes an instance unhealthy; then so many `failures` on
    end do, and the restart policy hears of it.
    """

    probe: Literal["http", "tcp", "exec"]
    interval: Duration = 10.0
    timeout: Duration = 2.0
    start: Duration = 30.0
    failures: int = 3
    successes: int = 1
    port: int = 0
    path: Text = "/"
    tls: bool = False
    status: int = 200
    command: list[Text] = Field(default_factory=list)
    cwd: Text = ""


class StandbyRequest(_Request):
    """Standby by idleness: `after` so long without a TCP connection into it or a session in it; whoever connects to one
    of its host ports, in bridge mode to its address, then wakes it. 0: never. What comes from the ranges of addresses
    `ignore_sources`, or to the guest's ports `ignore_ports`, does not keep it awake."""

    after: Duration
    ignore_sources: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=256)
    ignore_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(default_factory=list, max_length=256)


class Egress(_Request):
    """What it may reach. Names, each with all below it, and ranges of addresses: where there are any, only those are
    reached, whatever the flags say. Without: the flags are ports 80 and 443, both are everything, none is nothing.
    `allow_package_managers`: the registries that this host's own package managers use as well."""

    allow_http: bool = True
    allow_https: bool = True
    allow_package_managers: bool = True
    domains: list[Annotated[Text, Field(max_length=512)]] = Field(default_factory=list, max_length=256)
    cidrs: list[Annotated[Text, Field(max_length=64)]] = Field(default_factory=list, max_length=256)


class Display(_Request):
    """A screen in pixels. A machine shows its first one."""

    name: Annotated[Text, Field(min_length=1, max_length=64)] = "main"
    width: int = 1024
    height: int = 768
    ppi: int = 0


class CreateInstance(_Request):
    """What to create: from an image, which decides the shape, from a snapshot, or `blank`: a machine with firmware and
    without a disk of its own, which boots from its volumes, the first first.

    What is left out is the image's own word or a default (1 vCPU, a network, a grace of 30 seconds). From a snapshot it
    is what the snapshot's instance had, with host ports of its own; then `disk`, `shape`, `firmware`, `command`,
    `entrypoint`, `cwd`, `user`, `network`, `tpm` and `cloud_init` are refused, and `vcpus`, `memory`, `env` and
    `volumes` too where the snapshot has memory. `template` false: it boots, also where a template would spare it that.
    `compression` is of its saved memory, in the background; `compression_delay` is how long after a standby that
    begins. The rates are bytes a second, 0 without limit: of all its disks together, and of what comes to it and what
    it sends, which only bridge mode can limit.
    """

    image: Annotated[Text, Field(min_length=1, max_length=512)] | None = None
    snapshot: Name | None = None
    name: Name | None = None
    vcpus: int | None = None
    memory: Size | None = None
    disk: Size | None = None
    shape: Literal["micro", "full"] | None = None
    firmware: Literal["bios", "uefi"] | None = None
    command: list[Text] | None = None
    entrypoint: list[Text] | None = None
    env: dict[EnvName, Text] = Field(default_factory=dict)
    cwd: Text = Field(default="", max_length=4096)
    user: Text = Field(default="", max_length=256)
    hostname: Text = ""
    network: bool | None = None
    ports: Annotated[list[PortRequest], Field(max_length=256)] | None = None
    volumes: list[MountRequest] = Field(default_factory=list, max_length=16)
    cloud_init: CloudInitRequest | None = None
    restart: RestartRequest | None = None
    autostart: bool | None = None
    grace: Duration | None = None
    lifetime: Duration | None = None
    power: Literal["on", "off"] = "on"
    labels: Labels | None = None
    template: bool = True
    compression: CompressionPolicy | None = None
    compression_delay: Duration | None = None
    standby: StandbyRequest | None = None
    disk_rate: SizeOrNone | None = None
    download_rate: SizeOrNone | None = None
    upload_rate: SizeOrNone | None = None
    health: HealthRequest | None = None
    blank: bool = False
    displays: Annotated[list[Display], Field(max_length=16)] | None = None
    nics: Annotated[list[Name], Field(max_length=8)] | None = None
    tpm: bool | None = None
    egress: Egress | None = None


class CreateTemplate(_Request):
    """A template for creates that ask for this image and this size. `shared`: for every project, by the operator.
    `code`: with a Python session that is up, where the image has Python."""

    image: Annotated[Text, Field(min_length=1, max_length=512)]
    vcpus: int | None = None
    memory: Size | None = None
    disk: Size | None = None
    shared: bool = False
    code: bool = False


class GuardRequest(_Request):
    """A request header that has to have this very value, 32 to 256 visible characters; whoever sends another is
    answered 403. The instance does not see it, and nobody is told the value again."""

    header: Annotated[Text, Field(min_length=1, max_length=128)]
    value: Annotated[Text, Field(max_length=1024, repr=False)]


class RuleRequest(_Request):
    """Requests for `hostname` at `port` of this host go to `target_port` of an instance. A label of the host name may
    be a capture such as `{instance}`, which `instance` then is. With `tls` the server ends it; with `redirect` it sends
    who asks at port 80 there."""

    hostname: Annotated[Text, Field(min_length=1, max_length=253)]
    port: int = Field(default=80, ge=1, le=65535)
    instance: Annotated[Text, Field(min_length=1, max_length=64)]
    target_port: int = Field(ge=1, le=65535)
    tls: bool = False
    redirect: bool = False
    guard: GuardRequest | None = None


class CreateIngress(_Request):
    """Rules that come and go together. A host name is for one ingress of the whole server at each port."""

    name: Name
    rules: Annotated[list[RuleRequest], Field(min_length=1, max_length=100)]
    labels: dict[Text, Text] = Field(default_factory=dict, max_length=64)


class ForkInstance(_Request):
    """What differs in the new instance. `kind`: `full` goes on where the source is, `disk` boots from a copy of its
    disk; left out, it is `full` where the source has memory now. Host ports are the new one's own. Volumes that are
    only read are in both. One that can be written is refused unless `without`, the volumes that the new one is not to
    have, names it: it is of `kind` `disk` then."""

    name: Name | None = None
    hostname: Text = ""
    kind: Literal["disk", "full"] | None = None
    without: list[Name] = Field(default_factory=list, max_length=16)
    ports: Annotated[list[PortRequest], Field(max_length=256)] | None = None
    restart: RestartRequest | None = None
    lifetime: Duration | None = None
    power: Literal["on", "off"] = "on"
    labels: Labels | None = None


class Unchecked(_Request):
    """No health check any more."""

    probe: Literal["none"]


class UpdateInstance(_Request):
    """What may change without touching the machine. `lifetime` counts from now; 0 takes it away. What is compressed
    holds for memory that is saved from now on. `egress` holds when it is answered, and nothing else is told with it;
    "none" takes it away."""

    name: Name | None = None
    labels: Labels | None = None
    lifetime: Duration | None = None
    compression: CompressionPolicy | None = None
    compression_delay: Duration | None = None
    health: HealthRequest | Unchecked | None = Field(default=None, discriminator="probe")
    standby: StandbyRequest | None = None
    egress: Egress | Literal["none"] | None = None


class StartInstance(_Request):
    """Another entry point or command, which it keeps. Only one that boots can have it."""

    entrypoint: list[Text] | None = None
    command: list[Text] | None = None


class StopInstance(_Request):
    """`grace`: seconds until a guest that does not obey is powered off. `force`: do not ask it."""

    force: bool = False
    grace: Duration | None = None


class RestartInstance(_Request):
    """`force`: do not ask the guest."""

    force: bool = False


class StandbyInstance(_Request):
    """How its memory is compressed this time, and how long after that it begins; else as the instance or the server has
    it. Refused where it is in standby already."""

    compression: Compression | None = None
    compression_delay: Duration | None = None


class AttachVolume(_Mount):
    """A volume to attach."""


class CreateVolume(_Request):
    """A volume with an empty ext4 file system, or with a `kind` of your own (such as `disk`) a medium of zeros."""

    name: Name
    size: Size
    kind: Annotated[Text, Field(min_length=1, max_length=32)] = "data"
    pool: Annotated[Text, Field(max_length=64)] = ""


class ResizeVolume(_Request):
    """A volume's new size; it can only grow."""

    size: Size


class CreateSnapshot(_Request):
    """Of the disk, or with `full` of the memory too. Without a name its id is its name. `compression` is of the memory,
    instead of the instance's or the server's."""

    name: Name | None = None
    kind: Literal["disk", "full"] = "disk"
    compression: Compression | None = None


class RevertInstance(_Request):
    """The snapshot to go back to, by id or name; it must be of this instance."""

    snapshot: Name


class SetSchedule(_Request):
    """A snapshot every `interval`. Of those that it made, the newest `max_count` are kept, and none older than
    `max_age`.
    """

    interval: Duration
    kind: Literal["disk", "full"] = "disk"
    max_age: Duration | None = None
    max_count: int | None = None


Deed = Literal["start", "stop", "force-stop", "reset", "restart", "suspend", "snapshot"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Unit = Literal["minute", "hour", "day", "week", "month", "year"]
MonthDay = Literal["start", "first", "15th", "last"]


_LAX = Field(strict=False)  # JSON has texts for times


class CreateTask(_Request):
    """`action` is done to `instance` (an id or a name): `at` a moment; or `every` so many units from the day `start`
    (today) until `end`, at the `time` of day, on `days` of the week, on the `month_day` of a month. All is in UTC.

    `stop` is the power button: a guest that does not obey runs on. A weekly one is, unless it says otherwise, for the
    weekday of its start. `once`: the task goes when it has run by the clock, and was done.
    """

    instance: Name
    action: Deed
    name: Text | None = None
    description: Text = ""
    at: Annotated[datetime, _LAX] | None = None
    every: Unit | None = None
    interval: int = Field(1, ge=1, le=1000)
    days: list[Day] | None = None
    time: Annotated[ClockTime, _LAX] | None = None
    start: Annotated[date, _LAX] | None = None
    end: Annotated[datetime, _LAX] | None = None
    month_day: MonthDay = "start"
    enabled: bool = True
    once: bool = False


class UpdateTask(_Request):
    """What is not said stays."""

    enabled: bool | None = None
    description: Text | None = None


class ReclaimMemory(_Request):
    """Let running guests lend so many bytes together, for as long as `hold`; 0 bytes end an earlier hold. Each keeps
    its protected floor. `dry_run`: only say what would be done."""

    bytes: SizeOrNone
    hold: Duration = 300.0
    dry_run: bool = False
    reason: Text = Field(default="", max_length=256)


class PullImage(_Request):
    """An image by name: built-in, or `registry/path:tag`."""

    name: Annotated[Text, Field(min_length=1, max_length=512)]


class Exit(_Reply):
    """How a run ended. `reason`: exited | shutdown | stopped | crashed | host-restart | unhealthy."""

    code: int | None = None
    signal: int | None = None
    reason: str = ""


class Forward(_Reply):
    """A host port on loopback and the guest port it leads to."""

    protocol: str
    host: int
    guest: int


class MountReply(_Reply):
    """A volume on the instance."""

    volume: str
    name: str
    path: str
    read_only: bool
    overlay: int
    state: Literal["attaching", "attached", "detaching"]
    bus: Literal["virtio", "usb"]


class Health(_Reply):
    """How the workload is. `successes` and `failures` are those on end; what was known is forgotten with the server."""

    health: Literal["disabled", "starting", "healthy", "unhealthy", "unknown"]
    successes: int
    failures: int
    checked: datetime | None
    succeeded: datetime | None
    failed: datetime | None
    error: str | None


class Error(_Reply):
    """Why something is as it is: the fault's kind and text."""

    kind: str
    message: str


class Standby(_Reply):
    """Its policy of standby by idleness; seconds."""

    enabled: bool
    after: float | None
    ignore_sources: list[str]
    ignore_ports: list[int]


class Instance(_Reply):
    """An instance as its project sees it."""

    id: str
    name: str
    project: str
    state: State
    ready: bool
    image: str
    image_digest: str
    shape: Literal["micro", "full"]
    firmware: Literal["none", "bios", "uefi"]
    vcpus: int
    memory: int
    disk: int
    command: list[str]
    hostname: str
    address: str | None
    mac: str | None
    ports: list[Forward]
    volumes: list[MountReply]
    labels: dict[str, str]
    restart: RestartRequest
    restarts: int
    autostart: bool
    incarnation: int
    pid: int | None
    accelerator: str | None
    exit: Exit | None
    error: Error | None
    operation: str | None
    origin: str | None
    compression: str | None
    compression_delay: float | None
    standby: Standby | None
    disk_rate: int
    download_rate: int
    upload_rate: int
    health: HealthRequest | None
    displays: list[Display]
    nics: list[str]
    tpm: bool
    egress: Egress | None
    host: str
    created: datetime
    started: datetime | None
    changed: datetime | None
    expires: datetime | None


class InstancePage(_Reply):
    """A page of instances; `next` is the cursor of the following one."""

    items: list[Instance]
    next: str | None = None


class Operation(_Reply):
    """One asked change."""

    id: str
    instance: str
    verb: str
    subject: str | None
    state: Literal["open", "done", "failed", "superseded"]
    progress: str
    error: Error | None
    created: datetime
    finished: datetime | None


class OperationList(_Reply):
    """The latest operations, newest first."""

    items: list[Operation]


class Volume(_Reply):
    """A volume."""

    id: str
    name: str
    project: str
    size: int
    state: Literal["creating", "ready", "deleting"]
    attached: list[str]
    host: str
    created: datetime
    kind: str
    read_only: bool
    pool: str


class Pool(_Reply):
    """Where volumes can be. `path` is told to operators only."""

    name: str
    number: int
    path: str | None = None
    free: int
    total: int


class HostNic(_Reply):
    """A network of the operator's that instances may have a NIC on. `bridge` is told to operators only."""

    name: str
    number: int
    description: str
    bridge: str | None = None


class HostNicList(_Reply):
    """All of them."""

    items: list[HostNic]


class ScreenTicket(_Reply):
    """Opens `path`, a WebSocket on which a VNC server speaks RFB, once, within so many seconds, for whoever has it."""

    ticket: str
    expires_in: float
    path: str


class PoolList(_Reply):
    """All of them, the default one first."""

    items: list[Pool]


class VolumePage(_Reply):
    """A page of volumes."""

    items: list[Volume]
    next: str | None = None


class Snapshot(_Reply):
    """What an instance was at a moment. The instance may be gone; `size` is what the snapshot holds on the host.
    `volumes`: those that its memory knows of, all read-only.

    `compression` is what was wanted for its memory, `compression_state` what has become of that; the two sizes are of
    the memory alone, and there once it is compressed.
    """

    id: str
    name: str
    project: str
    kind: Literal["disk", "full"]
    state: Literal["creating", "ready", "deleting"]
    instance: str
    instance_name: str
    image: str
    image_digest: str
    shape: Literal["micro", "full"]
    vcpus: int
    memory: int
    disk: int
    size: int
    scheduled: bool
    volumes: list[MountReply]
    compression: str
    compression_state: Literal["none", "compressing", "compressed", "error"]
    compression_error: str | None
    compressed_size: int | None
    uncompressed_size: int | None
    host: str
    created: datetime


class Template(_Reply):
    """A booted machine that new instances are copies of. `of`: whose, `project` or `all`."""

    id: str
    name: str
    project: str
    of: Literal["project", "all"]
    state: Literal["creating", "ready", "deleting"]
    image: str
    image_digest: str
    vcpus: int
    memory: int
    disk: int
    size: int
    host: str
    created: datetime


class TemplateList(_Reply):
    """Templates, oldest first."""

    items: list[Template]


class Rule(_Reply):
    """A rule of an ingress. `guard` is the name of the header that is asked for."""

    hostname: str
    port: int
    instance: str
    target_port: int
    tls: bool
    redirect: bool
    guard: str | None = None


class Ingress(_Reply):
    """Which HTTP requests to this host are answered by which instances."""

    id: str
    name: str
    project: str
    rules: list[Rule]
    labels: dict[str, str]
    created: datetime


class IngressPage(_Reply):
    """A page of ingresses."""

    items: list[Ingress]
    next: str | None = None


class SnapshotPage(_Reply):
    """A page of snapshots."""

    items: list[Snapshot]
    next: str | None = None


class Schedule(_Reply):
    """When an instance's snapshots are taken, and what became of the last run."""

    instance: str
    interval: float
    kind: Literal["disk", "full", "any"]
    max_age: float | None
    max_count: int | None
    next_run: datetime
    last_run: datetime | None
    last_error: str | None
    last_snapshot: str | None


class Timetable(_Reply):
    """When something is done. `every` is `never` of one moment."""

    every: Literal["never"] | Unit
    interval: int
    start: date
    time: str
    end: datetime | None
    days: list[Day]
    month_day: MonthDay


class TaskRun(_Reply):
    """One run. `due` is when it was to be; `error` says why it was not done."""

    due: datetime
    began: datetime
    ended: datetime | None
    outcome: Literal["running", "done", "failed", "missed", "interrupted"]
    error: str | None
    operation: str | None


class Task(_Reply):
    """What is done to an instance when its time has come. `owner` is in whose name."""

    id: str
    name: str
    description: str
    project: str
    instance: str
    action: Deed
    owner: str
    enabled: bool
    once: bool
    created: datetime
    timetables: list[Timetable]
    next_run: datetime | None
    last_run: TaskRun | None


class TaskList(_Reply):
    """Tasks, oldest first."""

    items: list[Task]


class Image(_Reply):
    """An image that is on the host."""

    digest: str
    names: list[str]
    kind: Literal["root", "disk"]
    size: int
    virtual_size: int
    entrypoint: list[str]
    command: list[str]
    created: datetime


class ImageList(_Reply):
    """Images the caller may use."""

    items: list[Image]


class PullProgress(_Reply):
    """One line of the answer to a pull: progress, then exactly one of `image` or `error`."""

    text: str = ""
    fraction: float | None = None
    image: Image | None = None
    error: Error | None = None


class Host(_Reply):
    """A host and what it can do."""

    id: str
    cpus: int
    memory: int
    disk_free: int
    hypervisor: str
    version: str
    accelerator: str
    network: str
    abilities: list[str]
    ok: bool
    trouble: str


class ReclaimAction(_Reply):
    """One guest's share, in bytes. `target` is what it is asked to get along with now; `error` says why nothing was
    asked of it."""

    instance: str
    name: str
    assigned: int
    floor: int
    previous: int
    planned: int
    target: int
    applied: int
    status: Literal["planned", "applied", "unchanged", "unsupported", "error"]
    error: str | None


class Reclaimed(_Reply):
    """What became of a reclaim, in bytes. A guest follows in its own time."""

    requested: int
    planned: int
    applied: int
    hold_until: datetime | None
    host_available: int
    host_pressure: Literal["healthy", "pressure"]
    actions: list[ReclaimAction]


class HostList(_Reply):
    """The hosts."""

    items: list[Host]


class Event(_Reply):
    """One entry of the event log."""

    seq: int
    kind: str
    project: str
    subject: str
    at: datetime
    data: dict[str, str]


class Stats(_Reply):
    """What an instance takes of its host now: seconds of CPU; bytes of memory that its process has, and could have;
    bytes that its guest received and sent. All 0 while it does not run."""

    cpu: float
    resident: int
    virtual: int
    received: int
    sent: int


class FileStat(_Reply):
    """A file in a guest."""

    path: str
    exists: bool
    kind: str = ""
    mode: int = 0
    size: int = 0
    mtime: float = 0.0
    uid: int = 0
    gid: int = 0
    target: str = ""


class LogRecord(_Reply):
    """One piece of a workload's output, as a line of NDJSON. `data` is base64; `stream`: start|stdout|stderr|exit."""

    at: float
    stream: Literal["start", "stdout", "stderr", "exit"]
    data: str = ""
    code: int | None = None
    signal: int | None = None


class CodeRequest(_Request):
    """Code to run in an instance. Python goes on where the last call has left it, bash begins anew each time."""

    code: str = Field(max_length=8 * 1024 * 1024, repr=False)
    language: Literal["python", "bash"] = "python"
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    env: dict[EnvName, Text] = Field(default_factory=dict, repr=False)


class CodeResult(_Reply):
    """What code has said and how it ended; 124 where that was at its time limit. Times in seconds."""

    stdout: str
    stderr: str
    exit_code: int
    execution_time: float
    cpu_time: float


class ExecRequest(_Request):
    """The first message on an exec socket."""

    argv: list[Text] = Field(min_length=1, max_length=4096)
    env: dict[EnvName, Text] = Field(default_factory=dict)
    cwd: Text = Field(default="", max_length=4096)
    user: Text = Field(default="", max_length=256)
    tty: bool = False
    rows: int = Field(default=24, ge=1, le=10_000)
    cols: int = Field(default=80, ge=1, le=10_000)
    timeout: float | None = Field(default=None, gt=0, le=31_536_000)


class ExecOrder(_Request):
    """A text message to a running command: its stdin ends, its terminal has another size (rows, columns), a signal."""

    eof: bool = False
    resize: tuple[Annotated[int, Field(ge=1, le=10_000)], Annotated[int, Field(ge=1, le=10_000)]] | None = None
    signal: int | None = Field(default=None, ge=1, le=64)


class ExecResult(_Reply):
    """The last message on an exec socket."""

    code: int | None = None
    signal: int | None = None
    timed_out: bool = False


class Problem(_Reply):
    """Every error's body: `kind` is one of sixteen, `field` names the offending input."""

    kind: str
    message: str
    field: str | None = None
    subject: str | None = None


class About(_Reply):
    """Who answers."""

    name: str
    version: str
    project: str
    principal: str
    operator: bool
