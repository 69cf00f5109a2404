"""Code in an instance, over HTTP."""

from __future__ import annotations

from fastapi import APIRouter

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import Key
from polyvisor.model.code import Language
from polyvisor.wire import native as wire

router = APIRouter(prefix="/instances", tags=["instances"])


@router.post("/{key}/code")
async def run_code(key: Key, body: wire.CodeRequest, caller: Caller, core: Core) -> wire.CodeResult:
    """Run code to its end. What goes wrong with it is in the answer, not in its status: a traceback, an exit code."""
    ran = await core.code.run(
        caller, key, body.code, Language(body.language), timeout=body.timeout, env=body.env
    )  # fmt: skip
    return wire.CodeResult(
        stdout=ran.stdout, stderr=ran.stderr, exit_code=ran.exit_code, execution_time=ran.execution_time,
        cpu_time=ran.cpu_time,
    )  # fmt: skip
