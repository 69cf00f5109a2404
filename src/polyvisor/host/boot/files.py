"""`BootFiles`: each file is named after the recipe that makes it, so a changed recipe makes another file and machines
that run keep theirs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from polyvisor.host.boot import agent, initrd, kernel


class BootFiles:
    """The files in `root`, made when first asked for. `kernel` and `modules` name the operator's own, if any."""

    def __init__(self, root: Path, *, kernel: str = "", modules: str = "") -> None:
        self._root = root
        self._own = (Path(kernel), Path(modules)) if kernel else None
        self._turn = asyncio.Lock()
        self._made: tuple[Path, Path] | None = None
        self._agent: Path | None = None

    async def agent(self) -> Path:
        """The agent's program. :raise Unsupported: there is no compiler for it."""
        async with self._turn:
            return await self._need_agent()

    async def _need_agent(self) -> Path:
        if self._agent is None:
            name = f"agent-{agent.recipe()}"
            self._agent = await self._make(name, agent.build)
        return self._agent

    async def kernel(self) -> tuple[Path, Path]:
        """Kernel and initial RAM disk. :raise Unsupported: there is no kernel package and none is configured."""
        async with self._turn:
            if self._made is None:
                self._made = await self._make_both()
        return self._made

    async def _make_both(self) -> tuple[Path, Path]:
        built = await self._need_agent()
        image, modules = self._own or await kernel.unpacked(self._root)
        facts = image.stat()
        made_of = f"{image.name}\0{modules.name}\0{facts.st_size}\0{facts.st_mtime_ns}"
        recipe = hashlib.sha256(made_of.encode()).hexdigest()[:16]
        elf = await self._make(f"vmlinux-{recipe}", lambda out: kernel.extract(image, out))

        async def pack(out: Path) -> None:
            await initrd.build(built, modules, out)

        return elf, await self._make(f"initrd-{recipe}-{initrd.recipe(built)}", pack)

    async def _make(self, name: str, build: Callable[[Path], Awaitable[None]]) -> Path:
        """The file of that name, whole or not at all."""
        done = self._root / name
        if not done.exists():
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="making-", dir=self._root))
            try:
                part = folder / name
                await build(part)
                part.replace(done)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return done
