"""What clients of Hypeman ask, verbatim: field names, defaults and limits of its OpenAPI document, version 0.3.0.

Unknown fields are ignored, as upstream does. What a field means, and which are refused here, is `translate`'s business.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from polyvisor.dialects.hypeman.grammar import NAME, PLATFORM, TAG_TEXT

State = Literal["Created", "Initializing", "Running", "Paused", "Shutdown", "Stopped", "Standby", "Unknown"]
Hypervisor = Literal["cloud-hypervisor", "firecracker", "qemu", "qemu-microvm", "vz"]
TargetState = Literal["Stopped", "Standby", "Running"]
SnapshotKind = Literal["Standby", "Stopped"]
Name = Annotated[str, Field(pattern=NAME, max_length=63)]
Platform = Annotated[str, Field(pattern=PLATFORM)]
TagKey = Annotated[str, Field(pattern=TAG_TEXT, min_length=1, max_length=128)]
TagValue = Annotated[str, Field(pattern=TAG_TEXT, max_length=256)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=50)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


class Ask(BaseModel):
    """A body. Types are what JSON says they are: a number in quotes is no number."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Query(BaseModel):
    """Parameters of a path: texts, from which numbers and truth values are read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- instances -----------------------------------------------------------------------------------------------------


class VolumeMount(Ask):
    """A volume of a new instance."""

    volume_id: str
    mount_path: str
    readonly: bool = False
    overlay: bool = False
    overlay_size: str | None = None


class EgressEnforcement(Ask):
    """How strictly the mediated way out is kept to."""

    mode: Literal["all", "http_https_only"] = "all"


class Egress(Ask):
    """A mediated way out."""

    enabled: bool = False
    enforcement: EgressEnforcement | None = None


class Network(Ask):
    """The network of a new instance."""

    enabled: bool = True
    bandwidth_download: str | None = None
    bandwidth_upload: str | None = None
    egress: Egress | None = None


class CredentialSource(Ask):
    """Where the real value of a credential is."""

    env: str


class CredentialHeader(Ask):
    """Where it is put."""

    header: str
    format: str


class CredentialInject(Ask):
    """For which hosts."""

    hosts: list[str] | None = None
    as_: CredentialHeader = Field(alias="as")


class Credential(Ask):
    """A credential that the guest never sees."""

    source: CredentialSource
    inject: Annotated[list[CredentialInject], Field(min_length=1)]


class Compression(Ask):
    """Compression of saved memory."""

    enabled: bool
    algorithm: Literal["zstd", "lz4"] | None = None
    level: Annotated[int, Field(ge=0, le=19)] | None = None


class SnapshotPolicy(Ask):
    """What holds for snapshots of an instance unless a request says otherwise."""

    compression: Compression | None = None
    standby_compression_delay: str | None = None


class AutoStandbyPolicy(Ask):
    """When an idle instance is put into standby."""

    enabled: bool = False
    idle_timeout: str | None = None
    ignore_source_cidrs: list[str] | None = None
    ignore_destination_ports: list[PortNumber] | None = None


class HealthCheckHTTP(Ask):
    """A probe by HTTP."""

    port: PortNumber
    path: str = "/"
    scheme: Literal["http", "https"] = "http"
    expected_status: Annotated[int, Field(ge=100, le=599)] = 200


class HealthCheckTCP(Ask):
    """A probe by connecting."""

    port: PortNumber


class HealthCheckExec(Ask):
    """A probe by a command."""

    command: Annotated[list[str], Field(min_length=1)]
    working_dir: str | None = None


class HealthCheck(Ask):
    """How it is found out whether the workload is well."""

    type: Literal["none", "http", "tcp", "exec"] = "none"
    interval: str = "10s"
    timeout: str = "2s"
    start_period: str = "30s"
    failure_threshold: Annotated[int, Field(ge=1)] = 3
    success_threshold: Annotated[int, Field(ge=1)] = 1
    http: HealthCheckHTTP | None = None
    tcp: HealthCheckTCP | None = None
    exec: HealthCheckExec | None = None


class RestartPolicy(Ask):
    """When a workload that has ended is started again."""

    policy: Literal["never", "always", "on_failure"] = "never"
    backoff: str = "5s"
    max_attempts: Annotated[int, Field(ge=0)] = 0
    stable_after: str = "10m"


class GPUConfig(Ask):
    """A virtual GPU."""

    profile: str | None = None


class CreateInstanceRequest(Ask):
    """A new instance."""

    name: Name
    image: str
    platform: Platform | None = None
    size: str = "1GB"
    hotplug_size: str | None = None
    overlay_size: str = "10GB"
    disk_io_bps: str | None = None
    vcpus: int = 2
    env: dict[str, str] | None = None
    credentials: dict[str, Credential] | None = None
    tags: Tags | None = None
    ttl: str | None = None
    expires_at: AwareDatetime | None = None
    network: Network | None = None
    devices: list[str] | None = None
    gpu: GPUConfig | None = None
    volumes: list[VolumeMount] | None = None
    hypervisor: Hypervisor | None = None
    snapshot_policy: SnapshotPolicy | None = None
    auto_standby: AutoStandbyPolicy | None = None
    health_check: HealthCheck | None = None
    restart_policy: RestartPolicy | None = None
    skip_kernel_headers: bool = False
    skip_guest_agent: bool = False
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None


class UpdateInstanceRequest(Ask):
    """What may change while an instance lives."""

    env: Annotated[dict[str, str], Field(min_length=1)] | None = None
    auto_standby: AutoStandbyPolicy | None = None
    health_check: HealthCheck | None = None
    restart_policy: RestartPolicy | None = None
    ttl: str | None = None
    expires_at: AwareDatetime | None = None


class StandbyInstanceRequest(Ask):
    """How memory is kept in standby."""

    compression: Compression | None = None
    compression_delay: str | None = None


class StartInstanceRequest(Ask):
    """Another entry point or command."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None


class ForkInstanceRequest(Ask):
    """A copy of an instance."""

    name: Name
    from_running: bool = False
    target_state: TargetState | None = None


class AttachVolumeRequest(Ask):
    """A volume for an instance that is there."""

    mount_path: str
    readonly: bool = False


class ListInstances(Query):
    """Which instances."""

    state: State | None = None
    tags: Tags | None = None


class DeleteInstance(Query):
    """How it ends."""

    graceful_shutdown: bool = True


class Logs(Query):
    """Which log, and how much of it."""

    tail: Annotated[int, Field(ge=0)] = 100
    follow: bool = False
    source: Literal["app", "vmm", "hypeman"] = "app"


class Stat(Query):
    """What path."""

    path: str
    follow_links: bool = False


class Wait(Query):
    """For what, and how long."""

    state: State
    timeout: str = "60s"


# -- snapshots -----------------------------------------------------------------------------------------------------


class CreateSnapshotRequest(Ask):
    """A snapshot of an instance."""

    kind: SnapshotKind
    name: Name | None = None
    tags: Tags | None = None
    compression: Compression | None = None


class RestoreSnapshotRequest(Ask):
    """Back to a snapshot."""

    target_state: TargetState | None = None
    target_hypervisor: Hypervisor | None = None


class ForkSnapshotRequest(Ask):
    """A new instance from a snapshot."""

    name: Name
    target_state: TargetState | None = None
    target_hypervisor: Hypervisor | None = None


class SnapshotScheduleRetention(Ask):
    """What is kept."""

    max_count: Annotated[int, Field(ge=0)] | None = None
    max_age: str | None = None


class SetSnapshotScheduleRequest(Ask):
    """Snapshots by the clock."""

    interval: str
    name_prefix: Annotated[str, Field(pattern=NAME, max_length=47)] | None = None
    metadata: Tags | None = None
    retention: SnapshotScheduleRetention


class ListSnapshots(Query):
    """Which snapshots."""

    source_instance_id: str | None = None
    kind: SnapshotKind | None = None
    name: str | None = None
    tags: Tags | None = None


# -- images and volumes --------------------------------------------------------------------------------------------


class PushCredentials(Ask):
    """Who we are to a registry."""

    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    registry_token: str | None = Field(default=None, repr=False)


class CreateImageRequest(Ask):
    """An image to be fetched."""

    name: str
    platform: Platform | None = None
    credentials: PushCredentials | None = None
    tags: Tags | None = None


class CreatePushRequest(Ask):
    """An image to be taken to a registry."""

    image: str
    target: str
    insecure: bool = False
    credentials: PushCredentials | None = None


class TagImageRequest(Ask):
    """Another name."""

    target: str


class CreateVolumeRequest(Ask):
    """A new volume."""

    name: str
    size_gb: int
    id: str | None = None
    tags: Tags | None = None


class VolumeFromArchive(Query):
    """A new volume with files on it."""

    name: str
    size_gb: int
    id: str | None = None
    tags: Tags | None = None


class IngressMatch(Ask):
    """Which requests a rule is for; port 0 is 80."""

    hostname: str
    port: int = 80


class IngressTarget(Ask):
    """Where they go."""

    instance: str
    port: int


class IngressRequestHeaderAuth(Ask):
    """A header that they must have."""

    header: str
    value: Annotated[str, Field(min_length=32, max_length=256, repr=False)]


class IngressRule(Ask):
    """One rule."""

    match: IngressMatch
    target: IngressTarget
    tls: bool = False
    redirect_http: bool = False
    request_header_auth: IngressRequestHeaderAuth | None = None


class CreateIngressRequest(Ask):
    """A new ingress."""

    name: Name
    rules: Annotated[list[IngressRule], Field(min_length=1)]
    tags: Tags | None = None


class BuildEvents(Query):
    """Those that were, or with `follow` those to come as well."""

    follow: bool = False


class ListTagged(Query):
    """Those with all of these tags."""

    tags: Tags | None = None


# -- builds --------------------------------------------------------------------------------------------------------


class CreateBuildRequest(Query):
    """A form: its parts are texts, and `source` a file."""

    dockerfile: str | None = None
    base_image_digest: str | None = None
    builder_id: str | None = None
    cache_scope: str | None = None
    timeout_seconds: int = 600
    memory_mb: int = 2048
    cpus: int = 2
    image_name: str | None = None
    secrets: str | None = None
    is_admin_build: str | None = None
    global_cache_key: str | None = None
    tags: str | None = None


class BuildSecret(Ask):
    """A secret that a build may read."""

    id: str
    env_var: str | None = None


class CreateBuilderRequest(Ask):
    """A new builder."""

    id: str | None = None
    name: str | None = None
    disk_size_gb: Annotated[int, Field(ge=1)] | None = None
    tags: Tags | None = None


class MemoryReclaimRequest(Ask):
    """How much memory is wanted back."""

    reclaim_bytes: Annotated[int, Field(ge=0)]
    hold_for: str = "5m"
    dry_run: bool = False
    reason: Annotated[str, Field(max_length=256)] | None = None
