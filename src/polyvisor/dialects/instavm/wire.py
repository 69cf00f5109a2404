"""What is asked and answered, in the seed's field order (instavm.md §1). Fields that are not known are ignored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Vcpus = Annotated[int, Field(ge=1, le=256)]
Megabytes = Annotated[int, Field(ge=128, le=1024 * 1024)]
Port = Annotated[int, Field(ge=1, le=65535)]
Env = dict[Text, Text]
_DEEPEST, _MOST_METADATA = 32, 64 * 1024


def _told_again(metadata: dict[str, Any]) -> dict[str, Any]:
    """What is kept whole is to be told again, in each list that it is in. :raise ValueError: it cannot be."""
    layer: list[Any] = [metadata]
    for _ in range(_DEEPEST):
        layer = [
            inner for one in layer if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
    if layer:
        raise ValueError(f"must be at most {_DEEPEST} levels deep")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise ValueError("must be JSON: no NaN, no infinite number, no half of a character") from error
    if size > _MOST_METADATA:
        raise ValueError(f"must be at most {_MOST_METADATA} bytes")
    return metadata


Metadata = Annotated[dict[str, Any], AfterValidator(_told_again)]


class ShareRequest(BaseModel):
    """A port of the VM that is to be reached from outside."""

    port: Port
    is_public: bool = False


class CustomDomainRequest(BaseModel):
    """A name of the owner's that leads to the share."""

    domain: Text
    dns_provider: Text | None = None
    dns_credentials: dict[Text, Text] | None = Field(default=None, repr=False)


class DomainBody(CustomDomainRequest):
    """`POST /v1/custom-domains`: the same, of a share that is there."""

    share_id: Text


class Place(BaseModel):
    """Where a volume is to be, and as what."""

    mount_path: Text
    mode: Literal["rw", "ro"] = "rw"
    checkpoint_id: Text | None = None


class VMVolumeMountRequest(Place):
    """A volume, and where it is to be."""

    volume_id: Text


class CreatedVolumeMount(Place):
    """The same with a new VM. `instavm deploy` names the volume instead, and may want it made (instavm.md §0)."""

    volume_id: Text | None = None
    name: Text | None = None
    size_gb: Annotated[int, Field(ge=1)] | None = None
    create_if_missing: bool = False


class EgressBody(BaseModel):
    """A policy; what is left out is open. Package registries have two names, of which clients use one or the other."""

    allow_http: bool = True
    allow_https: bool = True
    allow_package_managers: bool | None = None
    allow_public_repos: bool | None = None
    allowed_domains: list[Text] | None = None
    allowed_cidrs: list[Text] | None = None


class VMCreateRequest(BaseModel):
    """`POST /v1/vms` (seed); the last two are the SDK's."""

    session_id: Text | None = None
    vm_lifetime_seconds: Annotated[int, Field(ge=1)] | None = None
    memory_mb: Megabytes | None = None
    vcpu_count: Vcpus | None = None
    metadata: Metadata | None = None
    env: Env | None = Field(default=None, repr=False)
    egress_policy: EgressBody | None = None
    snapshot_id: Text | None = None
    snapshot_on_terminate: bool | None = None
    snapshot_name: Text | None = None
    share: ShareRequest | None = None
    custom_domain: CustomDomainRequest | None = None
    image_variant: Text | None = None
    volumes: list[CreatedVolumeMount] | None = None
    vault_ids: list[Text] | None = None
    auto_suspend: bool | None = None
    auto_resume: bool | None = None


class VMCreateResponse(BaseModel):
    """Its answer (seed)."""

    vm_id: str | None
    session_id: str
    status: str
    share: dict[str, Any] | None = None
    custom_domain: dict[str, Any] | None = None
    env_status: str = "none"
    env_error: str | None = None


class VMUpdateRequest(BaseModel):
    """`PATCH /v1/vms/{id}`; what is left out stays."""

    memory_mb: Megabytes | None = None
    vcpu_count: Vcpus | None = None
    vm_lifetime_seconds: Annotated[int, Field(ge=1)] | None = None
    metadata: Metadata | None = None
    snapshot_on_terminate: bool | None = None
    snapshot_name: Text | None = None
    vault_ids: list[Text] | None = None
    auto_suspend: bool | None = None
    auto_resume: bool | None = None


class CloneRequest(BaseModel):
    """`snapshot_name`: how the snapshot in between is called, which stays then."""

    snapshot_name: Text | None = None


class SnapshotRequest(BaseModel):
    """Of a VM's disk."""

    name: Text | None = None


class BuildArgs(BaseModel):
    """What is done in the VM before its disk is taken; packages have blanks between. `template_app_cmd` is what VMs of
    the snapshot run when they boot."""

    extra_apt_packages: Text | None = None
    extra_pip_packages: Text | None = None
    extra_npm_packages: Text | None = None
    git_clone_url: Text | None = None
    git_clone_branch: Text | None = None
    disk_size_gb: Annotated[int, Field(ge=1, le=16)] | None = None
    envs: Env | None = Field(default=None, repr=False)
    post_build_cmd: Text | None = None
    template_app_cmd: Text | None = None
    template_app_cwd: Text | None = None


class BuildRequest(BaseModel):
    """`POST /v1/snapshots`."""

    oci_image: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
    name: Text | None = None
    vcpu_count: Annotated[int, Field(ge=1, le=8)] = 2
    memory_mb: Annotated[int, Field(ge=128, le=8192)] = 512
    type: Literal["user", "system"] = "user"
    build_args: BuildArgs | None = None


class StagedVariable(BaseModel):
    """A variable for what is executed from now on."""

    env_name: Text
    value: Text = Field(repr=False)


class StageEnvRequest(BaseModel):
    """They are kept in the VM's memory alone."""

    entries: list[StagedVariable]


class SessionRequest(BaseModel):
    """`POST /v1/sessions/session`; the key comes in the body."""

    api_key: Text = Field(repr=False)
    vm_lifetime_seconds: Annotated[int, Field(ge=20, le=86400)] | None = None
    memory_mb: Megabytes | None = None
    vcpu_count: Vcpus | None = None
    metadata: Metadata | None = None
    env: Env | None = Field(default=None, repr=False)


class KillRequest(BaseModel):
    """Which session's VM."""

    session_id: Text


class ExecuteRequest(BaseModel):
    """`POST /execute`. `command` and `code` are the same thing; `timeout` is in seconds."""

    command: Text | None = None
    code: Text | None = None
    session_id: Text
    language: Literal["python", "bash"] = "python"
    timeout: Annotated[int, Field(ge=1, le=3600)] = 60
    api_key: Text | None = Field(default=None, repr=False)
    vault_ids: list[Text] | None = None


class ExecuteResponse(BaseModel):
    """What it said and how it ended; times in seconds."""

    stdout: str
    stderr: str
    execution_time: float
    cpu_time: float
    exit_code: int


class ShareBody(BaseModel):
    """`POST /v1/shares`."""

    port: Port
    is_public: bool = False
    session_id: Text | None = None
    vm_id: Text | None = None


class ShareUpdate(BaseModel):
    """`PATCH /v1/shares/{id}`."""

    is_public: bool | None = None
    revoke: bool = False


class PtyRequest(BaseModel):
    """A terminal: `command` is a line for the shell, `shell` a program; neither is a login shell."""

    cols: Annotated[int, Field(ge=1, le=1000)] = 80
    rows: Annotated[int, Field(ge=1, le=1000)] = 24
    command: Text | None = None
    shell: Text | None = None
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None


class PtySize(BaseModel):
    """In characters."""

    cols: Annotated[int, Field(ge=1, le=1000)]
    rows: Annotated[int, Field(ge=1, le=1000)]


Patterns = Annotated[list[Annotated[Text, StringConstraints(max_length=100)]], Field(min_length=1, max_length=32)]
Address = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=2048)]
Words = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)]


class WebhookBody(BaseModel):
    """`POST /v1/webhooks/endpoints`; without patterns all events."""

    url: Address
    description: Words | None = None
    event_patterns: Patterns | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=30)] = 10
    max_retries: Annotated[int, Field(ge=0, le=10)] = 5


class WebhookUpdate(BaseModel):
    """`PATCH /v1/webhooks/endpoints/{id}`; what is left out stays."""

    url: Address | None = None
    description: Words | None = None
    event_patterns: Patterns | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=30)] | None = None
    max_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    enabled: bool | None = None
