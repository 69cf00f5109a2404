"""What Hypeman says, verbatim: the schemas of its OpenAPI document, version 0.3.0, and of SDK 0.28.0.

Each class is called as its schema. Which fields are said as null and which are left out is part of the contract
(hypeman.md §1.1): see `encode.Reply`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

from polyvisor.dialects.hypeman.asks import Hypervisor, SnapshotKind, State
from polyvisor.dialects.hypeman.encode import Reply

Texts = Mapping[str, str]


class Error(Reply):
    """What every refusal says."""

    code: str
    message: str


# -- instances -----------------------------------------------------------------------------------------------------


class VolumeMount(Reply):
    """A volume of an instance."""

    volume_id: str
    mount_path: str
    readonly: bool
    overlay: bool | None = None
    overlay_size: str | None = None


class InstanceNetwork(Reply):
    """How an instance is connected. Without a network it has neither name nor address."""

    nullable: ClassVar = frozenset({"ip", "mac"})
    enabled: bool
    name: str | None = None
    ip: str | None = None
    mac: str | None = None
    bandwidth_download: str | None = None
    bandwidth_upload: str | None = None


class SnapshotCompressionConfig(Reply):
    """How saved memory is compressed."""

    enabled: bool
    algorithm: Literal["zstd", "lz4"] | None = None
    level: int | None = None


class SnapshotPolicy(Reply):
    """What holds for an instance's snapshots."""

    compression: SnapshotCompressionConfig | None = None
    standby_compression_delay: str | None = None


class AutoStandbyPolicy(Reply):
    """When an idle instance is put into standby."""

    enabled: bool
    idle_timeout: str | None = None
    ignore_source_cidrs: list[str] | None = None
    ignore_destination_ports: list[int] | None = None


class HealthCheckHTTP(Reply):
    """A probe by HTTP."""

    port: int
    path: str
    scheme: Literal["http", "https"]
    expected_status: int


class HealthCheckTCP(Reply):
    """A probe by connecting."""

    port: int


class HealthCheckExec(Reply):
    """A probe by a command."""

    command: list[str]
    working_dir: str | None = None


class HealthCheck(Reply):
    """How it is found out whether the workload is well."""

    type: Literal["none", "http", "tcp", "exec"]
    interval: str | None = None
    timeout: str | None = None
    start_period: str | None = None
    failure_threshold: int | None = None
    success_threshold: int | None = None
    http: HealthCheckHTTP | None = None
    tcp: HealthCheckTCP | None = None
    exec: HealthCheckExec | None = None


class InstanceHealthStatus(Reply):
    """How the workload is."""

    nullable: ClassVar = frozenset({"last_checked_at", "last_success_at", "last_failure_at", "last_error"})
    status: Literal["disabled", "starting", "healthy", "unhealthy", "unknown"]
    consecutive_successes: int = 0
    consecutive_failures: int = 0
    last_checked_at: datetime | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_error: str | None = None


class RestartPolicy(Reply):
    """When a workload that has ended is started again."""

    policy: Literal["never", "always", "on_failure"]
    backoff: str
    max_attempts: int
    stable_after: str


class RestartStatus(Reply):
    """Where that stands."""

    nullable: ClassVar = frozenset({"last_attempt_at", "next_attempt_at", "blocked_reason", "last_reason"})
    attempts: int
    last_attempt_at: datetime | None = None
    next_attempt_at: datetime | None = None
    blocked_reason: Literal["manual_stop", "max_attempts_exceeded"] | None = None
    last_reason: Literal["health_check_failed"] | None = None


class Instance(Reply):
    """An instance."""

    nullable: ClassVar = frozenset({"exit_code", "expires_at", "started_at", "state_error", "stopped_at"})
    id: str
    name: str
    image: str
    state: State
    created_at: datetime
    platform: str | None = None
    state_error: str | None = None
    size: str | None = None
    hotplug_size: str | None = None
    disk_io_bps: str | None = None
    overlay_size: str | None = None
    vcpus: int | None = None
    env: Texts | None = None
    tags: Texts | None = None
    network: InstanceNetwork | None = None
    volumes: list[VolumeMount] | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    exit_code: int | None = None
    exit_message: str | None = None
    has_snapshot: bool | None = None
    hypervisor: Hypervisor | None = None
    snapshot_policy: SnapshotPolicy | None = None
    auto_standby: AutoStandbyPolicy | None = None
    health_check: HealthCheck | None = None
    health_status: InstanceHealthStatus | None = None
    restart_policy: RestartPolicy | None = None
    restart_status: RestartStatus | None = None
    phase_durations_ms: Mapping[str, int] | None = None
    current_phase: str | None = None
    current_phase_since: datetime | None = None


class PathInfo(Reply):
    """What lies at a path in a guest."""

    nullable: ClassVar = frozenset({"error", "link_target"})
    exists: bool
    is_dir: bool | None = None
    is_file: bool | None = None
    is_symlink: bool | None = None
    link_target: str | None = None
    mode: int | None = None
    size: int | None = None
    error: str | None = None


class WaitForStateResponse(Reply):
    """How a wait ended."""

    nullable: ClassVar = frozenset({"state_error"})
    state: State
    timed_out: bool
    state_error: str | None = None


class InstanceStats(Reply):
    """What an instance takes of its host."""

    nullable: ClassVar = frozenset({"memory_utilization_ratio"})
    instance_id: str
    instance_name: str
    cpu_seconds: float
    memory_rss_bytes: int
    memory_vms_bytes: int
    network_rx_bytes: int
    network_tx_bytes: int
    allocated_vcpus: int
    allocated_memory_bytes: int
    memory_utilization_ratio: float | None = None


class AutoStandbyStatus(Reply):
    """Where automatic standby stands."""

    nullable: ClassVar = frozenset(
        {"idle_timeout", "idle_since", "last_inbound_activity_at", "next_standby_at", "hold_until"}
        | {"countdown_remaining"}
    )
    supported: bool
    configured: bool
    enabled: bool
    eligible: bool
    status: Literal[
        "unsupported", "disabled", "ineligible", "active", "idle_countdown", "ready_for_standby", "standby_requested",
        "error",
    ]  # fmt: skip
    reason: Literal[
        "unsupported_platform", "policy_missing", "policy_disabled", "instance_not_running", "network_disabled",
        "missing_ip", "has_vgpu", "active_inbound_connections", "idle_timeout_not_elapsed", "observer_error",
        "ready_for_standby",
    ]  # fmt: skip
    active_inbound_connections: int = 0
    idle_timeout: str | None = None
    idle_since: datetime | None = None
    last_inbound_activity_at: datetime | None = None
    next_standby_at: datetime | None = None
    hold_until: datetime | None = None
    countdown_remaining: str | None = None
    tracking_mode: str


# -- snapshots -----------------------------------------------------------------------------------------------------


class Snapshot(Reply):
    """A snapshot."""

    nullable: ClassVar = frozenset({"compressed_size_bytes", "compression_error", "name", "uncompressed_size_bytes"})
    id: str
    name: str | None = None
    kind: SnapshotKind
    tags: Texts | None = None
    source_instance_id: str
    source_instance_name: str
    source_hypervisor: Hypervisor
    created_at: datetime
    size_bytes: int
    compression_state: Literal["none", "compressing", "compressed", "error"] | None = None
    compression_error: str | None = None
    compression: SnapshotCompressionConfig | None = None
    compressed_size_bytes: int | None = None
    uncompressed_size_bytes: int | None = None


class SnapshotScheduleRetention(Reply):
    """What is kept."""

    max_count: int | None = None
    max_age: str | None = None


class SnapshotSchedule(Reply):
    """Snapshots by the clock."""

    nullable: ClassVar = frozenset({"last_error", "last_run_at", "last_snapshot_id", "name_prefix"})
    instance_id: str
    interval: str
    name_prefix: str | None = None
    metadata: Texts | None = None
    retention: SnapshotScheduleRetention
    next_run_at: datetime
    last_run_at: datetime | None = None
    last_snapshot_id: str | None = None
    last_error: str | None = None
    created_at: datetime
    updated_at: datetime


# -- images and volumes --------------------------------------------------------------------------------------------


class Image(Reply):
    """An image, by one of its names."""

    nullable: ClassVar = frozenset({"cmd", "entrypoint", "error", "queue_position", "size_bytes", "working_dir"})
    name: str
    digest: str
    platform: str | None = None
    status: Literal["pending", "pulling", "converting", "ready", "failed"]
    queue_position: int | None = None
    error: str | None = None
    size_bytes: int | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: Texts | None = None
    tags: Texts | None = None
    working_dir: str | None = None
    created_at: datetime


class VolumeAttachment(Reply):
    """Who holds a volume."""

    instance_id: str
    mount_path: str
    readonly: bool


class Volume(Reply):
    """A volume."""

    id: str
    name: str
    size_gb: int
    tags: Texts | None = None
    attachments: list[VolumeAttachment] | None = None
    created_at: datetime


# -- ingresses -----------------------------------------------------------------------------------------------------


class IngressMatch(Reply):
    """Which requests a rule is for."""

    hostname: str
    port: int


class IngressTarget(Reply):
    """Where they go."""

    instance: str
    port: int


class IngressRequestHeaderAuth(Reply):
    """A header that they must have. The value is said, as the document has it."""

    header: str
    value: str


class IngressRule(Reply):
    """One rule."""

    match: IngressMatch
    target: IngressTarget
    tls: bool
    redirect_http: bool
    request_header_auth: IngressRequestHeaderAuth | None = None


class Ingress(Reply):
    """An ingress."""

    id: str
    name: str
    tags: Texts | None = None
    rules: list[IngressRule]
    created_at: datetime


# -- pushes --------------------------------------------------------------------------------------------------------


class Push(Reply):
    """An image on its way to a registry."""

    nullable: ClassVar = frozenset({"completed_at", "error", "queue_position"})
    id: str
    image: str
    digest: str
    target: str
    status: Literal["queued", "pushing", "pushed", "failed"]
    queue_position: int | None = None
    error: str | None = None
    layers: int | None = None
    bytes: int | None = None
    created_at: datetime
    completed_at: datetime | None = None


# -- builds --------------------------------------------------------------------------------------------------------

BuildStatus = Literal["queued", "building", "pushing", "ready", "failed", "cancelled"]


class BuildProvenance(Reply):
    """What an image was built of."""

    base_image_digest: str | None = None
    source_hash: str | None = None
    lockfile_hashes: Texts | None = None
    timestamp: datetime | None = None


class Build(Reply):
    """An image that is built, was, or was not."""

    nullable: ClassVar = frozenset(
        {
            "builder_id", "builder_instance_id", "completed_at", "duration_ms", "error", "image_digest", "image_ref",
            "queue_position", "started_at",
        }
    )  # fmt: skip
    id: str
    status: BuildStatus
    tags: Texts | None = None
    queue_position: int | None = None
    image_digest: str | None = None
    image_ref: str | None = None
    error: str | None = None
    provenance: BuildProvenance | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    builder_instance_id: str | None = None
    builder_id: str | None = None


class BuildEvent(Reply):
    """What a build said, what has become of it, or that nothing has for a while."""

    type: Literal["log", "status", "heartbeat"]
    timestamp: datetime
    content: str | None = None
    status: BuildStatus | None = None


class Builder(Reply):
    """A disk that builds keep their layers on."""

    nullable: ClassVar = frozenset({"active_build_id", "last_used_at"})
    id: str
    name: str | None = None
    disk_size_gb: int
    status: Literal["ready", "pruning", "deleting", "error"]
    tags: Texts | None = None
    created_at: datetime
    last_used_at: datetime | None = None
    max_concurrency: int
    active_build_id: str | None = None
    queued_builds: list[str]


# -- the server ----------------------------------------------------------------------------------------------------


class Health(Reply):
    """The server answers."""

    status: Literal["ok"] = "ok"


class CapabilitiesServer(Reply):
    """What this server is."""

    version: str
    api_version: str


class CapabilitiesHost(Reply):
    """What it runs on."""

    os: str
    arch: str


class CapabilitiesDefaultRuntime(Reply):
    """What runs an instance that does not say."""

    name: str
    available: bool


class CapabilitiesRuntime(Reply):
    """What a runtime can do."""

    name: str
    available: bool
    features: list[str]


class CapabilitiesNetwork(Reply):
    """How guests are connected."""

    model: Literal["bridge", "nat"]
    gateway: str | None = None
    subnet: str | None = None
    guest_to_guest: bool


class CapabilitiesImages(Reply):
    """For which platforms."""

    platforms: list[str]
    default_platform: str


class Capabilities(Reply):
    """What this server can do."""

    server: CapabilitiesServer
    host: CapabilitiesHost
    default_runtime: CapabilitiesDefaultRuntime
    runtimes: list[CapabilitiesRuntime]
    network: CapabilitiesNetwork
    images: CapabilitiesImages
    features: list[str]


class MemoryReclaimAction(Reply):
    """One guest's share of a reclaim."""

    instance_id: str
    instance_name: str
    hypervisor: Hypervisor
    assigned_memory_bytes: int
    protected_floor_bytes: int
    previous_target_guest_memory_bytes: int
    planned_target_guest_memory_bytes: int
    target_guest_memory_bytes: int
    applied_reclaim_bytes: int
    status: str
    error: str | None = None


class MemoryReclaimResponse(Reply):
    """What became of a reclaim."""

    requested_reclaim_bytes: int
    planned_reclaim_bytes: int
    applied_reclaim_bytes: int
    hold_until: datetime | None = None
    host_available_bytes: int
    host_pressure_state: Literal["healthy", "pressure"]
    actions: list[MemoryReclaimAction]


class ResourceStatus(Reply):
    """One kind of what instances need."""

    type: str
    capacity: int
    effective_limit: int
    allocated: int
    available: int
    oversub_ratio: float
    source: str | None = None


class ResourceAllocation(Reply):
    """What one instance has of it."""

    instance_id: str
    instance_name: str
    cpu: int
    memory_bytes: int
    disk_bytes: int
    network_download_bps: int = 0
    network_upload_bps: int = 0
    disk_io_bps: int = 0


class Resources(Reply):
    """What the host has, and who has it. There is no GPU."""

    nullable: ClassVar = frozenset({"gpu"})
    cpu: ResourceStatus
    memory: ResourceStatus
    disk: ResourceStatus
    network: ResourceStatus
    gpu: None = None
    allocations: list[ResourceAllocation]
