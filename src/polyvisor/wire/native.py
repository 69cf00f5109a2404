"""JSON bodies of `/api/v1`. Sizes are bytes, times are RFC 3339 in UTC, durations are seconds.

Requests refuse unknown fields: a field that is accepted has an effect.
"""

from __future__ import annotations

from datetime import datetime
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
Duration = Annotated[
    float | str,
    PlainValidator(_duration),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
    Field(description="Seconds, or text such as `30s` or `1h30m`."),
]
Name = Annotated[Text, Field(min_length=1, max_length=63)]
EnvName = Annotated[Text, Field(min_length=1, max_length=256, pattern=r"^[^=]+$")]
Label = Annotated[Text, Field(min_length=1, max_length=128, pattern=r"^[^=]+$")]
Labels = Annotated[dict[Label, Annotated[Text, Field(max_length=1024)]], Field(max_length=64)]
State = Literal[
    "creating", "starting", "running", "pausing", "paused", "resuming", "stopping", "stopped", "deleting", "failed",
    "lost",
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


class MountRequest(_Request):
    """A volume, by id or name. Without a path it is a bare block device."""

    volume: Name
    path: Text = ""
    read_only: bool = False


class CloudInitRequest(_Request):
    """First-boot data for disk images: cloud-init user data, and SSH keys for `user` (the image's default if empty)."""

    user_data: Text = Field(default="", max_length=65536)
    ssh_keys: list[Annotated[Text, Field(max_length=16384)]] = Field(default_factory=list, max_length=64)
    user: str = Field(default="", max_length=32, pattern=r"^([a-z_][a-z0-9_-]*)?$")


class RestartRequest(_Request):
    """When an instance that ended by itself is started again; `attempts` 0 is without limit."""

    mode: Literal["never", "on-failure", "always"] = "never"
    attempts: int = Field(default=0, ge=0, le=1_000_000)
    backoff: float = Field(default=1.0, ge=0.1, le=300)


class CreateInstance(_Request):
    """What to create. Only the image is required; it decides the shape."""

    image: Annotated[Text, Field(min_length=1, max_length=512)]
    name: Name | None = None
    vcpus: int = 1
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
    network: bool = True
    ports: list[PortRequest] = Field(default_factory=list, max_length=256)
    volumes: list[MountRequest] = Field(default_factory=list, max_length=16)
    cloud_init: CloudInitRequest | None = None
    restart: RestartRequest = Field(default_factory=RestartRequest)
    autostart: bool = False
    grace: Duration = 30.0
    lifetime: Duration | None = None
    power: Literal["on", "off"] = "on"
    labels: Labels = Field(default_factory=dict)


class UpdateInstance(_Request):
    """What may change without touching the machine. `lifetime` counts from now; 0 takes it away."""

    name: Name | None = None
    labels: Labels | None = None
    lifetime: Duration | None = None


class StopInstance(_Request):
    """`grace`: seconds until a guest that does not obey is powered off. `force`: do not ask it."""

    force: bool = False
    grace: Duration | None = None


class RestartInstance(_Request):
    """`force`: do not ask the guest."""

    force: bool = False


class AttachVolume(MountRequest):
    """A volume to attach."""


class CreateVolume(_Request):
    """A volume with an empty ext4 file system."""

    name: Name
    size: Size


class ResizeVolume(_Request):
    """A volume's new size; it can only grow."""

    size: Size


class PullImage(_Request):
    """An image by name: built-in, or `registry/path:tag`."""

    name: Annotated[Text, Field(min_length=1, max_length=512)]


class Exit(_Reply):
    """How a run ended. `reason`: exited | shutdown | stopped | crashed."""

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
    state: Literal["attaching", "attached", "detaching"]


class Error(_Reply):
    """Why something is as it is: the fault's kind and text."""

    kind: str
    message: str


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


class VolumePage(_Reply):
    """A page of volumes."""

    items: list[Volume]
    next: str | None = None


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
    """Every error's body: `kind` is one of fifteen, `field` names the offending input."""

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
