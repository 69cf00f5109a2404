"""What a launch asks for, checked field by field and made into a Create (seed; hanzo.md §1.2)."""

from __future__ import annotations

import re
from collections.abc import Collection

from polyvisor.dialects.hanzo import wire
from polyvisor.dialects.hanzo.catalog import PLANS, SYSTEMS
from polyvisor.dialects.hanzo.find import LONGEST_NAME, named
from polyvisor.dialects.hanzo.settings import Settings, System
from polyvisor.model.faults import Invalid, Unsupported
from polyvisor.model.request import Create
from polyvisor.model.spec import CloudInit
from polyvisor.model.units import Seconds

MOST_KEYS = 100
LONGEST_KEY = 16 * 1024
LONGEST_DATA = 64 * 1024
GRACE = Seconds(60.0)
"""How long a guest may take to obey a stop."""
_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" AAAA\S*( .*)?"
)
"""The form alone: all public keys begin so, and what is behind it only the guest's sshd needs to read."""
_BEGINNINGS = ("#!", "#cloud-config")


def check_name(name: str) -> str:
    """:raise Invalid:"""
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise Invalid(f"name: must be 1 to {LONGEST_NAME} printable characters", field="name")
    return name


def one_of(text: str, known: Collection[str], field: str) -> str:
    """:raise Invalid: naming what there is."""
    if text not in known:
        raise Invalid(f"{field}: {text[:80]!r} is not one of {', '.join(known)}", field=field)
    return text


def check_region(region: str, settings: Settings) -> str:
    """:raise Invalid: this host does not serve it."""
    return one_of(region, settings.regions, "region")


def system_of(os: str, settings: Settings) -> System:
    """What an `os` is made from. :raise Invalid: unknown. :raise Unsupported: nobody has set it up here."""
    found = settings.systems.get(os)
    if found is None and os in SYSTEMS:
        text = f'os: {os} is not set up on this host: the setting [os_images."{os}"] needs a file or url, and sha256'
        raise Unsupported(text, field="os")
    if found is None:
        one_of(os, [*SYSTEMS, *(name for name in settings.systems if name not in SYSTEMS)], "os")
    return found or System()


def check_launch(body: wire.Launch, settings: Settings) -> System:
    """What the `os` is made from. :raise Invalid, Unsupported: naming the first field that cannot be."""
    check_name(body.name)
    one_of(body.plan, PLANS, "plan")
    check_region(body.region, settings)
    system = system_of(body.os, settings)
    keys = body.sshKeys or []
    if len(keys) > MOST_KEYS:
        raise Invalid(f"sshKeys: there are more than {MOST_KEYS}", field="sshKeys")
    for number, key in enumerate(keys):
        if len(key) > LONGEST_KEY or not key.strip().isprintable() or not _KEY.fullmatch(key.strip()):
            raise Invalid(f"sshKeys[{number}]: is not an OpenSSH public key", field="sshKeys")
    _check_data(body.userData)
    return system


def _check_data(data: str | None) -> None:
    if not data:
        return
    if len(data.encode()) > LONGEST_DATA:
        raise Invalid(f"userData: is larger than {LONGEST_DATA} bytes", field="userData")
    if not data.startswith(_BEGINNINGS) or "\0" in data:
        raise Invalid("userData: must be a script (#!) or begin with #cloud-config", field="userData")


def create_of(body: wire.Launch, image: str) -> Create:
    """The Create, of an image that is here."""
    plan = PLANS[body.plan]
    keys = tuple(key.strip() for key in body.sshKeys or ())
    kept = {"plan": body.plan, "region": body.region, "os": body.os, "sshKeys": list(keys)}
    name, foreign = named(body.name, "vm", **kept)
    init = CloudInit(body.userData or "", keys, "root") if keys or body.userData else CloudInit()
    return Create(
        image=image, name=name, vcpus=plan.vcpus, memory=plan.memory, disk=plan.disk, cloud_init=init, grace=GRACE,
        foreign=foreign,
    )  # fmt: skip
