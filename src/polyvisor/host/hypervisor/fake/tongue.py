"""As much of Python as shows that code is run, and keeps its state: names, numbers, texts, a few calls.

It is walked and never executed: whoever may send code to a fake guest has nothing of the host by that. Texts and
numbers have a largest size, and a call so many steps.
"""

from __future__ import annotations

import ast
import asyncio
import operator
import random
from collections.abc import Callable, MutableMapping
from typing import Any

_LARGEST = 8 * 1024 * 1024
_STEPS = 100_000
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.Gt: operator.gt,
}  # fmt: skip
_MODULES = ("os", "sys", "time", "random")


class Exited(Exception):
    """`exit(...)`."""


class Tongue:
    """A session over a guest's files. What it says is put into `said`: (stream, text)."""

    def __init__(self, files: MutableMapping[str, bytes], env: dict[str, str]) -> None:
        self.said: list[tuple[int, str]] = []
        self._files = files
        self._names: dict[str, Any] = {}
        self._env = env
        self._extra: dict[str, str] = {}
        self._random = random.Random()  # noqa: S311 - it plays the guest's own
        self._who: object = None
        self._left = 0

    async def run(self, code: str, env: dict[str, str], extra: dict[str, str], who: object) -> int:
        """Its exit code."""
        self._env, self._extra, self._left = env, extra, _STEPS
        if who != self._who:
            self._who, self._random = who, random.Random()  # noqa: S311 - as above
        try:
            for statement in (body := ast.parse(code).body):
                value = await self._do(statement)
                if statement is body[-1] and isinstance(statement, ast.Expr) and value is not None:
                    self.say(1, f"{value!r}\n")
        except Exited as exited:
            return int(exited.args[0])
        except Exception as error:  # a guest's code may do anything wrong
            self.say(2, f"Traceback (most recent call last):\n{type(error).__name__}: {error}\n")
            return 1
        return 0

    def say(self, fd: int, text: str) -> None:
        """On a stream."""
        self.said.append((fd, text))

    async def _do(self, node: ast.stmt) -> Any:
        self._step()
        if isinstance(node, ast.Expr):
            return await self._value(node.value)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            self._names[node.targets[0].id] = await self._value(node.value)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name not in _MODULES:
                    raise ModuleNotFoundError(f"No module named {name.name!r}")
        elif isinstance(node, ast.For | ast.While):
            await self._repeat(node)
        elif not isinstance(node, ast.Pass):
            raise NotImplementedError(f"the fake guest knows no {type(node).__name__}")
        return None

    async def _repeat(self, node: ast.For | ast.While) -> None:
        values = iter(await self._value(node.iter)) if isinstance(node, ast.For) else None
        while values is not None or await self._value(node.test):  # type: ignore[union-attr]  # without values it is one
            if isinstance(node, ast.For) and values is not None:
                try:
                    self._names[ast.unparse(node.target)] = next(values)
                except StopIteration:
                    return
            for statement in node.body:
                await self._do(statement)

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("too many steps for a fake guest")

    async def _value(self, node: ast.expr) -> Any:
        self._step()
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in self._names:
                raise NameError(f"name {node.id!r} is not defined")
            return self._names[node.id]
        if isinstance(node, ast.BinOp):
            return self._work(node.op, await self._value(node.left), await self._value(node.right))
        if isinstance(node, ast.Compare):
            return self._work(node.ops[0], await self._value(node.left), await self._value(node.comparators[0]))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            return {**self._env, **self._extra}[await self._value(node.slice)]
        if isinstance(node, ast.Call):
            return await self._call(node)
        raise NotImplementedError(f"the fake guest knows no {type(node).__name__}")

    def _work(self, how: ast.AST, left: Any, right: Any) -> Any:
        if type(how) not in _OPERATORS or not all(isinstance(one, str | int | float) for one in (left, right)):
            raise TypeError("unsupported operand")
        for one, other in ((left, right), (right, left)):
            if isinstance(how, ast.Mult) and isinstance(one, str) and len(one) * int(other) > _LARGEST:
                raise MemoryError
        if isinstance(how, ast.Mod) and isinstance(left, str):
            raise TypeError("unsupported operand")
        value = _OPERATORS[type(how)](left, right)
        if (isinstance(value, str) and len(value) > _LARGEST) or (isinstance(value, int) and abs(value) >= 1 << 512):
            raise MemoryError
        return value

    async def _call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name.startswith("open(") and name.endswith(").read"):
            return await self._read(node.func)
        given = [await self._value(arg) for arg in node.args]
        if name == "print":
            to_stderr = any(word.arg == "file" and ast.unparse(word.value) == "sys.stderr" for word in node.keywords)
            self.say(2 if to_stderr else 1, " ".join(map(str, given)) + "\n")
            return None
        if name in ("exit", "quit", "sys.exit"):
            raise Exited(given[0] if given else 0)
        if name == "time.sleep":
            return await asyncio.sleep(float(given[0]))
        calls: dict[str, Callable[..., Any]] = {
            "os.environ.get": {**self._env, **self._extra}.get, "os.getcwd": lambda: "/app",
            "random.random": self._random.random, "range": lambda count: range(min(count, _STEPS)),
            "str": str, "int": int, "len": len, "repr": repr,
        }  # fmt: skip
        if name not in calls:
            raise NameError(f"name {name!r} is not defined")
        return calls[name](*given)

    async def _read(self, node: ast.expr) -> str:
        """`open(path).read()`."""
        assert isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call)
        path = await self._value(node.value.args[0])
        if path not in self._files:
            raise FileNotFoundError(f"[Errno 2] No such file or directory: {path!r}")
        return self._files[path].decode()
