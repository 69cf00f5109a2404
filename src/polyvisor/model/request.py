"""What a caller asks for when it creates an instance: a dialect fills this in, the engine resolves it to a Spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyvisor.model.instance import Mount, Power
from polyvisor.model.spec import CloudInit, Firmware, Port, RestartPolicy, Shape
from polyvisor.model.units import Bytes, Seconds


@dataclass(frozen=True, slots=True)
class Create:
    """Every field but the image has a meaning when left out: the image's own word, or a default."""

    image: str
    name: str = ""
    vcpus: int = 1
    memory: Bytes | None = None
    disk: Bytes | None = None
    shape: Shape | None = None
    firmware: Firmware | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str = ""
    user: str = ""
    hostname: str = ""
    network: bool = True
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    cloud_init: CloudInit = field(default=CloudInit(), repr=False)
    restart: RestartPolicy = RestartPolicy()
    autostart: bool = False
    grace: Seconds = Seconds(30.0)
    lifetime: Seconds | None = None
    power: Power = Power.ON
    labels: tuple[tuple[str, str], ...] = ()
