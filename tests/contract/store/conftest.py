"""A fresh store of each kind for every test; PostgreSQL is Debian's, started once and stopped at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from polyvisor.model.ids import mint
from polyvisor.store import SqlStore, migrations, open_store
from polyvisor.store.database import parse


class Cluster:
    """A PostgreSQL server on a socket in a directory of its own, with a template that has our schema."""

    def __init__(self, binaries: Path, root: Path) -> None:
        self.binaries, self.root = binaries, root
        self.account = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root

    def run(self, program: str, *args: str) -> None:
        """One of its programs."""
        with (self.root / "log").open("ab") as log:
            done = subprocess.run(
                [str(self.binaries / program), *args],
                user=self.account,
                group=self.account,
                extra_groups=[] if self.account else None,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
        assert done.returncode == 0, f"{program}: {(self.root / 'log').read_text()}"

    def start(self) -> None:
        """Make the data directory and start."""
        data = str(self.root / "data")
        self.run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        options = f"-k {self.root} -c listen_addresses= -c fsync=off -c full_page_writes=off"
        self.run("pg_ctl", "-D", data, "-w", "-l", str(self.root / "server.log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop at once; nobody needs the data."""
        self.run("pg_ctl", "-D", str(self.root / "data"), "-w", "-m", "immediate", "stop")

    def url(self, database: str) -> str:
        """Of a database in it."""
        return f"postgresql://postgres@/{database}?host={self.root}"

    def database(self, template: str = "template1") -> str:
        """A new one; its name."""
        name = mint()
        self.run("createdb", "-h", str(self.root), "-U", "postgres", "-T", template, name)
        return name


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL server of this run."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.fail("PostgreSQL is not installed: apt install postgresql (scripts/test does it)")
    root = Path(tempfile.mkdtemp(prefix="pv-pg-"))
    server = Cluster(installed[-1].parent, root)
    if server.account:
        shutil.chown(root, server.account, server.account)
    try:
        server.start()
        migrations.upgrade(parse(server.url("template1")))
        yield server
        server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database nobody has used yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Cluster = request.getfixturevalue("cluster")
    return server.url(server.database())


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, url: str) -> str:
    """As `url`, without our schema in it."""
    if url.startswith("sqlite"):
        return url
    server: Cluster = request.getfixturevalue("cluster")
    return server.url(server.database("template0"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """A store that is ready."""
    opened = await open_store(url)
    yield opened
    await opened.close()
