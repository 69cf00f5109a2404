"""Things of every kind on the fuzzed server: made anew when they are gone, taken away when there are too many."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

INSTANCES = {"fuzz-running": "Running", "fuzz-also": "Running", "fuzz-asleep": "Standby", "fuzz-stopped": "Stopped"}
VOLUMES = ("fuzz-volume", "fuzz-held", "fuzz-spare")
BUILDERS = ("fuzz-builder", "fuzz-cache")
IMAGE = "busybox"
MOST = 25  # of each kind
_PAUSE = 0.5


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(b"FROM busybox\n")
        archive.addfile(info, io.BytesIO(b"FROM busybox\n"))
    return out.getvalue()


SOURCE = _archive()
"""Of a build."""


class Stock:
    """What is there; `file` tells the hooks the ids that nobody can choose."""

    def __init__(self, http: httpx.Client, file: Path) -> None:
        self._http = http
        self._file = file

    def keep(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.wait(_PAUSE):
            with contextlib.suppress(httpx.HTTPError):
                self.fill()

    def fill(self) -> None:
        """Make what is missing, remove what is too much, write down the rest."""
        self._volumes()
        self._instances()
        self._thin("/ingresses", self._list("/ingresses"))
        builds = self._builds()
        snapshots = self._list("/snapshots")
        self._thin("/snapshots", snapshots)
        if len(snapshots) < 3:
            self._http.post("/instances/fuzz-running/snapshots", json={"kind": "Standby"})
            self._http.post("/instances/fuzz-stopped/snapshots", json={"kind": "Stopped"})
        if not self._list("/images"):
            self._http.post("/images", json={"name": IMAGE})
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps({"snapshots": [one["id"] for one in snapshots], "builds": builds}))
        part.rename(self._file)  # it is read at any time

    def _builds(self) -> list[str]:
        """The builds of a run, one of which goes on for a while; and builders."""
        builders = self._list("/builders")
        self._thin("/builders", builders)
        for id in {*BUILDERS} - {one["id"] for one in builders}:
            self._http.post("/builders", json={"id": id, "name": id, "disk_size_gb": 1})
        builds = self._list("/builds")
        if all(one["completed_at"] for one in builds):
            self._http.post("/builds", data={"dockerfile": "FROM busybox\nRUN sleep 5"}, files={"source": SOURCE})
        return [one["id"] for one in builds[:5]]

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self._http.get(path)
        found: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
        return found

    def _thin(self, path: str, things: list[dict[str, Any]]) -> None:
        others = [one for one in things if not str(one.get("name") or "").startswith("fuzz-")]
        for one in others[: max(0, len(others) - MOST)]:
            self._http.delete(f"{path}/{quote(one['id'], safe='')}")

    def _volumes(self) -> None:
        volumes = self._list("/volumes")
        self._thin("/volumes", volumes)
        for id in {*VOLUMES} - {one["id"] for one in volumes}:
            self._http.post("/volumes", json={"name": id, "id": id, "size_gb": 1})

    def _instances(self) -> None:
        instances = self._list("/instances")
        self._thin("/instances", instances)
        here = {one["name"]: one["state"] for one in instances}
        for name, state in INSTANCES.items():
            if name not in here:
                self._make(name)
            if here.get(name) == state or name == "fuzz-also":
                continue  # that one is as the run left it
            verb = {"Running": "start", "Standby": "standby", "Stopped": "stop"}[state]
            if here.get(name) == "Standby":
                self._http.post(f"/instances/{name}/restore")
            self._http.post(f"/instances/{name}/{verb}", json={})

    def _make(self, name: str) -> None:
        body: dict[str, Any] = {"name": name, "image": IMAGE, "size": "256MB", "cmd": ["sleep", "3600"]}
        if name == "fuzz-also":
            body["volumes"] = [{"volume_id": "fuzz-held", "mount_path": "/data"}]
        self._http.post("/instances", json=body)
