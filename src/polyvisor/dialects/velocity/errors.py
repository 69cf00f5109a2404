"""What this dialect says when it will not: a code for each route and reason, and the framework's words for the rest.

A code is the route's number, the method's, and what was wrong (velocity.md §1.1). Statuses are the seed's where it
names one, else those of the server's own table: one table, `CODES`.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.kit.texts import clean
from polyvisor.model import faults
from polyvisor.model.faults import Fault

UNAUTHORIZED = 100
CODES: Mapping[int, tuple[int, str]] = {
    UNAUTHORIZED: (401, "Unauthorized: Authkey is invalid or not present"),
    1100: (403, "Username or password is wrong"),
    1400: (403, "Authkey is not known"),
    1401: (403, "Authkey has expired"),
    2100: (403, "Permission 'velocity.user.view' is needed"),
    2110: (404, "User has not been found"),
    2200: (403, "Permission 'velocity.user.create' is needed"),
    2220: (409, "A user with this name does already exist"),
    2300: (403, "Permission 'velocity.user.remove' is needed"),
    2310: (404, "User has not been found"),
    3100: (403, "Permission 'velocity.user.list' is needed"),
    4200: (403, "Permission 'velocity.user.assign' is needed"),
    4210: (404, "User has not been found"),
    4211: (404, "Group has not been found"),
    4212: (404, "Permission has not been found"),
    4220: (403, "A permission can only be given by who has it"),
    4300: (403, "Permission 'velocity.user.revoke' is needed"),
    4301: (403, "A permission can only be taken by who has it"),
    4310: (404, "User has not been found"),
    4311: (404, "Group has not been found"),
    4312: (404, "Permission has not been found"),
    5100: (403, "Permission 'velocity.group.view' is needed"),
    5110: (404, "Group has not been found"),
    5200: (403, "Permission 'velocity.group.create' is needed"),
    5210: (404, "Parent group has not been found"),
    5220: (409, "A group with this name does already exist in the parent group"),
    5300: (403, "Permission 'velocity.group.remove' is needed"),
    5310: (404, "Group has not been found"),
    5320: (409, "Group cannot be removed"),
    6200: (403, "Permission 'velocity.pool.assign' is needed"),
    6210: (404, "Group has not been found"),
    6211: (404, "Media pool has not been found"),
    6300: (403, "Permission 'velocity.pool.revoke' is needed"),
    6310: (404, "Group has not been found"),
    6311: (404, "Media pool has not been found"),
    7100: (403, "Permission 'velocity.pool.list' is needed"),
    7110: (404, "Group has not been found"),
    8200: (403, "Permission 'velocity.media.create' is needed"),
    8201: (403, "The group may not manage media in this pool"),
    8210: (404, "Group has not been found"),
    8211: (404, "Media pool has not been found"),
    8220: (409, "A medium with this name does already exist"),
    8221: (406, "The quota of the group or the room in the pool is not enough"),
    9200: (403, "Permission 'velocity.media.create' is needed"),
    9201: (403, "The group may not manage media in this pool"),
    9210: (400, "A header is missing or wrong"),
    9212: (400, "A header is missing or wrong"),
    9213: (400, "A header is missing or wrong"),
    9214: (400, "A header is missing or wrong"),
    9215: (400, "A header is missing or wrong"),
    9216: (400, "A header is missing or wrong"),
    9217: (404, "Group has not been found"),
    9218: (404, "Media pool has not been found"),
    9220: (409, "A medium with this name does already exist"),
    9221: (406, "The quota of the group or the room in the pool is not enough"),
    9222: (413, "The body is not what the headers say"),
    10100: (403, "Permission 'velocity.media.list' is needed"),
    10110: (404, "Group has not been found"),
    11100: (403, "Permission 'velocity.nic.list' is needed"),
    12200: (401, "Permission 'velocity.vm.create' is needed"),
    12210: (404, "Group has not been found"),
    12211: (404, "Medium has not been found"),
    12213: (404, "Media pool has not been found"),
    12214: (404, "Host NIC has not been found"),
    12220: (406, "CPU quota or limit exceeded"),
    12221: (406, "Memory quota or limit exceeded"),
    12222: (406, "Quota or limit exceeded"),
    12223: (409, "A virtual machine with this name does already exist in the group"),
    12224: (409, "Two displays have the same name"),
    12225: (406, "There is no such disk mode"),
    12226: (406, "There is no such NIC type"),
    12227: (406, "A BRIDGE needs a host NIC"),
    12228: (409, "Medium is attached to another virtual machine, or not there yet"),
    13100: (403, "Permission 'velocity.vm.view' is needed"),
    13110: (404, "Virtual machine has not been found"),
    13200: (403, "Permission 'velocity.vm.state' is needed"),
    13210: (404, "Virtual machine has not been found"),
    13220: (406, "State transition not allowed"),
    13221: (500, "A hypervisor error occured during the state transition"),
    16210: (404, "Virtual machine has not been found or is not accessible"),
    16300: (403, "Permission 'velocity.vm.remove' is needed"),
    16310: (404, "Virtual machine has not been found"),
    16320: (409, "Virtual machine is not stopped"),
    17200: (401, "Permission 'velocity.vm.view' is needed"),
    17210: (404, "Group has not been found"),
    18300: (403, "Permission 'velocity.media.remove' is needed"),
    18301: (403, "The group may not manage media in this pool"),
    18310: (404, "Medium has not been found"),
    18320: (409, "Medium is attached to a virtual machine"),
}
"""Code to status and message."""

STATUSES: Mapping[type[Fault], int] = total(
    {
        faults.Invalid: 400,
        faults.Unauthenticated: 401,
        faults.Throttled: 429,
        faults.Forbidden: 403,
        faults.NotFound: 404,
        faults.Exists: 409,
        faults.WrongState: 406,
        faults.Busy: 406,
        faults.Stale: 406,
        faults.OverQuota: 406,
        faults.NoCapacity: 406,
        faults.Unsupported: 406,
        faults.Upstream: 500,
        faults.TimedOut: 500,
        faults.Unavailable: 500,
        faults.Internal: 500,
    },
    faults.FAULTS,
    "velocity statuses",
)
"""Of a fault that no route has a code for."""


class Refusal(Exception):
    """A code of the table, with what else there is to say."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Bare(Exception):
    """What the framework says before a handler is asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def by_code(refusal: Refusal) -> Response:
    """The answer with a code."""
    status, message = CODES[refusal.code]
    text = f"{message}: {refusal.detail}" if refusal.detail else message
    return JSONResponse({"code": refusal.code, "message": clean(text)}, status)


def bare(status: int, reason: str) -> Response:
    """The framework's own answer. Clients read a 400 as `reason` and all else as `message`: it has both."""
    body: dict[str, object] = {"error": True, "reason": clean(reason)}
    if status == 400:
        body |= {"code": 400, "message": clean(reason)}
    return JSONResponse(body, status)


def of_fault(fault: Fault) -> Response:
    """The answer to a fault that the route has no code for."""
    status = STATUSES[type(fault)]
    if status == 400:
        return bare(400, fault.public)
    headers = {} if fault.retry_after is None else {"Retry-After": str(max(1, round(fault.retry_after)))}
    return JSONResponse({"code": status, "message": clean(fault.public)}, status, headers)
