"""Flags in the words people know from container tools, as wire types. What is wrong is a usage error."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from polyvisor.cli.settings import variable

if TYPE_CHECKING:
    from polyvisor.wire import native as wire

_PORT = re.compile(r"(?:(\d{1,5}):)?(\d{1,5})(?:/(tcp|udp))?")
_HEALTH = re.compile(r"(https?|tcp)://:([0-9]{1,5})(/\S*)?")
_RANGE = re.compile(r"[0-9.]+(/\d+)?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(/\d+)?")
_COMPRESSION = re.compile(r"none|zstd(?::(?:[1-9]|1[0-9]))?|lz4(?::[0-9])?")
_RATES = ("disk", "download", "upload")
_KEY_STARTS = ("ssh-", "ecdsa-", "sk-")


def mount(text: str) -> wire.MountRequest:
    """`VOL`, `VOL:PATH`, `VOL:PATH:ro`, or `VOL:PATH:ro+SIZE` with an overlay of that size."""
    from polyvisor.wire.native import MountRequest

    volume, _, rest = text.partition(":")
    path, _, how = rest.partition(":")
    how, _, overlay = how.partition("+")
    wrong = how not in ("", "ro", "rw") or (rest and not path.startswith("/")) or (overlay and how != "ro")
    if not volume or wrong:
        raise typer.BadParameter(f"{text!r} is not VOL:PATH[:ro[+SIZE]]", param_hint="--volume")
    return MountRequest(volume=volume, path=path, read_only=how == "ro", overlay=overlay or None)


def medium(text: str) -> wire.MountRequest:
    """`VOL`, with `:usb`, `:ro` or both."""
    from polyvisor.wire.native import MountRequest

    volume, *how = text.split(":")
    if not volume or len(set(how)) != len(how) or not {"usb", "ro"}.issuperset(how):
        raise typer.BadParameter(f"{text!r} is not VOL[:usb][:ro]", param_hint="--medium")
    return MountRequest(volume=volume, read_only="ro" in how, bus="usb" if "usb" in how else "virtio")


def display(text: str) -> list[dict[str, int]]:
    """`1024x768`; nothing: no screen."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if text and not match:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT", param_hint="--display")
    return [{"width": int(match[1]), "height": int(match[2])}] if match else []


def port(text: str) -> wire.PortRequest:
    """`GUEST`, `HOST:GUEST`, each with `/udp` or not."""
    from polyvisor.wire.native import PortRequest

    match = _PORT.fullmatch(text)
    if not match or not 1 <= int(match[2]) <= 65535 or int(match[1] or 0) > 65535:
        raise typer.BadParameter(f"{text!r} is not [HOST:]GUEST[/udp]", param_hint="--port")
    return PortRequest(guest=int(match[2]), host=int(match[1] or 0), protocol="udp" if match[3] == "udp" else "tcp")


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """`NAME=VALUE` each."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=flag)
        found[name] = value
    return found


def rates(texts: Sequence[str]) -> dict[str, str]:
    """`disk=50M` and the like, as fields of a create."""
    found = pairs(texts, "--rate")
    for name in found:
        if name not in _RATES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(_RATES)}", param_hint="--rate")
    return {f"{name}_rate": value for name, value in found.items()}


def environment(texts: Sequence[str], files: Sequence[Path] = ()) -> dict[str, str]:
    """Files first, then flags. A bare `NAME` passes our own variable on, if there is one."""
    lines = [line.strip() for file in files for line in read(file, "--env-file").splitlines()]
    found = {}
    for text in [line for line in lines if line and not line.startswith("#")] + list(texts):
        name, equals, value = text.partition("=")
        if not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--env")
        known = value if equals else variable(name)
        if known is not None:
            found[name] = known
    return found


def restart(text: str) -> wire.RestartRequest:
    """`never`, `on-failure[:ATTEMPTS]` or `always`."""
    from polyvisor.wire.native import RestartRequest

    mode, _, attempts = text.partition(":")
    if attempts and (not attempts.isdecimal() or len(attempts) > 6):
        raise typer.BadParameter(f"{attempts!r} is not a number of attempts", param_hint="--restart")
    count = int(attempts or 0)
    if mode == "on-failure":
        return RestartRequest(mode="on-failure", attempts=count)
    if mode == "always":
        return RestartRequest(mode="always", attempts=count)
    if mode in ("never", "no") and not attempts:
        return RestartRequest()
    raise typer.BadParameter(f"{text!r} is not never, on-failure[:N] or always", param_hint="--restart")


def compression(text: str | None, *, policy: bool = False) -> str | None:
    """`none`, `zstd[:LEVEL]`, `lz4[:LEVEL]`; as an instance's `policy` also `default`."""
    if not _COMPRESSION.fullmatch(text or "none") and not (policy and text == "default"):
        raise typer.BadParameter(f"{text!r} is not none, zstd[:1-19] or lz4[:0-9]", param_hint="--compress")
    return text


def health(text: str | None) -> dict[str, object] | None:
    """`http://:8080/ready`, `https://:443/`, `tcp://:22`, or a command in words as a shell splits them."""
    if text is None:
        return None
    match = _HEALTH.fullmatch(text)
    if match:
        scheme, port, path = match.groups()
        if scheme == "tcp":
            return {"probe": "tcp", "port": int(port)}
        return {"probe": "http", "port": int(port), "tls": scheme == "https", "path": path or "/"}
    if not text.strip() or "://" in text.split(None, 1)[0]:
        raise typer.BadParameter(f"{text!r} is not http://:PORT/PATH or tcp://:PORT", param_hint="--health")
    return {"probe": "exec", "command": entrypoint(text)}


def egress(text: str | None) -> dict[str, object] | None:
    """`open`, `deny`, or words with commas between: `http`, `https`, `packages`, names, and ranges of addresses."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["open"]:
        return {}
    if not words or ({"open", "deny"} & set(words) and words != ["deny"]):
        raise typer.BadParameter(f"{text!r} is not open, deny, or what is open besides", param_hint="--egress")
    flags = ("http", "https", "packages")
    listed = [word for word in words if word not in (*flags, "deny")]
    cidrs = [word for word in listed if _RANGE.fullmatch(word)]
    return {
        "allow_http": "http" in words, "allow_https": "https" in words, "allow_package_managers": "packages" in words,
        "domains": [word for word in listed if word not in cidrs], "cidrs": cidrs,
    }  # fmt: skip


def policies(check: str | None, reach: str | None, limits: Sequence[str]) -> dict[str, object]:
    """Health check, what it may reach, and rates, as fields of a request."""
    return {"health": health(check), "egress": egress(reach), **rates(limits)}


def entrypoint(text: str | None) -> list[str] | None:
    """Words as a shell splits them; "" takes the image's entry point away."""
    try:
        return None if text is None else shlex.split(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--entrypoint") from error


def public_key(text: str) -> str:
    """A public key, or the file that it is in."""
    return text if text.startswith(_KEY_STARTS) else read(Path(text).expanduser(), "--ssh-key").strip()


def read(file: Path, flag: str) -> str:
    """A text file that a flag names."""
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint=flag) from error


def command(words: Sequence[str] | None) -> list[str]:
    """The words behind `--`, or behind the first name where there is no `--`."""
    found = list(words or [])
    return found[1:] if found[:1] == ["--"] else found


def seconds(text: str) -> int:
    """A duration such as `90s`, `12h` or `1h30m`. :raise typer.BadParameter:"""
    parts = re.findall(r"(\d{1,9})([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 12h or 30d")
    return sum(int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] for number, unit in parts)
