"""Images built by hand, so that a test says exactly what is in them: docker save tars and OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Layer = Sequence[tuple[tarfile.TarInfo, bytes]]
CONFIG = {
    "Entrypoint": ["/bin/app"],
    "Cmd": ["--serve"],
    "Env": ["PATH=/bin", "EMPTY=", "A=b=c"],
    "WorkingDir": "/srv",
    "User": "7:8",
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"team": "blue"},
}


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(entries: Layer) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for info, data in entries:
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(layers: Sequence[bytes], arch: str = "amd64", says: Mapping[str, Any] = CONFIG) -> bytes:
    diff_ids = [f"sha256:{sha(layer)}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return json.dumps({"architecture": arch, "os": "linux", "config": says, "rootfs": rootfs}).encode()


def docker_save(path: Path, *layers: Layer, says: Mapping[str, Any] = CONFIG) -> Path:
    """As `docker save` wrote it for ten years. `says` is what the image says of its workload."""
    tars = [tar(layer) for layer in layers]
    about = config(tars, says=says)
    names = [f"{sha(data)}/layer.tar" for data in tars]
    manifest = [{"Config": f"{sha(about)}.json", "RepoTags": ["app:1"], "Layers": names}]
    files = [(f"{sha(about)}.json", about), *zip(names, tars, strict=True)]
    files.append(("manifest.json", json.dumps(manifest).encode()))
    path.write_bytes(tar([entry(name, data) for name, data in files]))
    return path


def packed(data: bytes, how: str) -> tuple[bytes, str]:
    """The layer's blob and the end of its media type."""
    if how == "gzip":
        return gzip.compress(data), "+gzip"
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout, "+zstd"
    return data, ""


def oci_layout(
    root: Path,
    *layers: Layer,
    how: str = "gzip",
    arch: str = "amd64",
    says: Mapping[str, Any] = CONFIG,
    **layer_fields: Any,
) -> Path:
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media: str, **more: Any) -> dict[str, Any]:
        (blobs / sha(data)).write_bytes(data)
        media = f"application/vnd.oci.image.{media}"
        return {"mediaType": media, "digest": f"sha256:{sha(data)}", "size": len(data), **more}

    tars = [tar(layer) for layer in layers]
    found = []
    for data in tars:
        content, ending = packed(data, how)
        found.append(blob(content, f"layer.v1.tar{ending}", **layer_fields))
    about = blob(config(tars, arch, says), "config.v1+json")
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media, "config": about, "layers": found}
    top = blob(json.dumps(manifest).encode(), "manifest.v1+json", platform={"os": "linux", "architecture": arch})
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def as_tar(layout: Path, out: Path) -> Path:
    with tarfile.open(out, "w") as made:
        for path in sorted(layout.rglob("*")):
            made.add(path, str(path.relative_to(layout)), recursive=False)
    return out
