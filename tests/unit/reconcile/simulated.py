"""A host of one machine, as simple as can be: what each step does to what a look finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from polyvisor.model.faults import NoCapacity
from polyvisor.model.host import Observation, Sight
from polyvisor.model.ids import Digest, HostId, InstanceId, OperationId, ProjectId
from polyvisor.model.instance import Ended, Instance, Intent, Observed, Phase, Power, RunRecord, advance
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.model.spec import Firmware, RestartPolicy, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.reconcile import facts, journal
from polyvisor.reconcile.plan import LIVE, Act, Next, Settled, Undo, Wait, needs_more, plan, proven
from polyvisor.reconcile.steps import STEPS, StepName

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ID = InstanceId("i" * 24)
UP = (Sight.RUNNING, Sight.PAUSED, Sight.DEAF)


def a_run(pid: int) -> RunRecord:
    """The proof of a process; number 400 started now, later numbers a little earlier."""
    return RunRecord(1, "boot", pid, pid, "uuid", "", "", "", NOW.timestamp() - (pid - 400) / 1000)


def an_instance(
    intent: Intent, observed: Observed, policy: RestartPolicy | None = None, *, autostart: bool = False
) -> Instance:
    """With those wishes and facts."""
    spec = Spec(
        Digest("d"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(64 * MIB), Bytes(GIB),
        restart=policy or RestartPolicy(), autostart=autostart,
    )  # fmt: skip
    return Instance(ID, 1, ProjectId("p"), "it", spec, intent, observed, HostId("h"), NOW)


def an_operation(verb: Verb, lines: tuple[str, ...] = ()) -> Operation:
    """An open one."""
    return Operation(OperationId("o"), ID, ProjectId("p"), verb, 2, Outcome.OPEN, NOW, journal=lines)


def an_observed(phase: Phase, generation: int, pid: int = 0) -> Observed:
    """Facts that fit the phase."""
    up = phase in (Phase.RUNNING, Phase.PAUSED, Phase.LOST)
    ran = up or phase is Phase.STOPPED
    return Observed(phase, generation, int(ran), NOW, run=a_run(pid) if up else None, booted=NOW if ran else None)


@dataclass
class Machine:
    """What there is. `stubborn`: the guest ignores its power button. `heals` looks later a deaf one answers."""

    sight: Sight = Sight.GONE
    run: RunRecord | None = None
    prepared: bool = False
    stubborn: bool = False
    heals: int = 3
    pids: int = 500
    saved: bool = False

    def look(self) -> Observation:
        """What is to be seen."""
        if self.sight is Sight.DEAF:
            self.heals -= 1
            if self.heals < 0:
                self.sight = Sight.RUNNING
        over = self.run is not None and self.sight in (Sight.ENDED, Sight.GONE)
        ended = Ended(reason="shutdown") if over else None
        return Observation(ID, self.sight, self.prepared, False, self.run, ended, saved=self.saved)

    def do(self, step: StepName) -> None:
        """What the step brings about. :raise NoCapacity: it acts on a machine that is not there."""
        match step:
            case StepName.MAKE_DISKS:
                self.prepared = True
            case StepName.LAUNCH | StepName.RELAUNCH:
                assert self.prepared
                if self.sight not in UP or step is StepName.RELAUNCH:
                    self.pids += 1
                    self.sight, self.run = Sight.RUNNING, a_run(self.pids)
            case StepName.SUSPEND | StepName.RESTORE | StepName.DISCARD:
                self._memory(step)
            case StepName.KILL | StepName.REAP:
                self.sight, self.run = Sight.GONE, None
            case StepName.REMOVE_DISKS:
                assert self.run is None
                self.prepared = False
            case StepName.PLUG | StepName.UNPLUG | StepName.SNAPSHOT | StepName.ENFORCE:
                pass
            case StepName.REVERT:
                assert self.run is None
            case _:
                self._live(step)

    def _memory(self, step: StepName) -> None:
        if step is StepName.SUSPEND:
            self._live(step)
            self.sight, self.run, self.saved = Sight.GONE, None, True
        if step is StepName.RESTORE:
            assert self.saved
            self.pids += 1
            self.sight, self.run, self.saved = Sight.RUNNING, a_run(self.pids), False
        if step is StepName.DISCARD:
            self.saved = False

    def _live(self, step: StepName) -> None:
        if self.sight not in (Sight.RUNNING, Sight.PAUSED):
            raise NoCapacity("no machine to do that to")
        if step is StepName.PRESS and not self.stubborn and self.sight is Sight.RUNNING:
            self.sight = Sight.ENDED
        if step is StepName.PAUSE:
            self.sight = Sight.PAUSED
        if step is StepName.RESUME:
            self.sight, self.saved = Sight.RUNNING, False


@dataclass
class Story:
    """What came of it."""

    instance: Instance
    operation: Operation | None
    machine: Machine
    steps: list[StepName]
    forgotten: bool = False
    fault: str = ""
    now: datetime = NOW


def settle(instance: Instance, operation: Operation | None, machine: Machine, limit: int = 40) -> Story:
    """Follow the plan until nothing is to be done, as the runner would. Every change of phase is checked.

    A machine that ends by itself is left to its restart policy only once.
    """
    story = Story(instance, operation, machine, [])
    for _ in range(limit):
        was = story.instance
        told = plan(was, story.operation, machine.look(), story.now)
        if isinstance(told, Settled):
            if told.forget:
                story.forgotten = True
                return story
            closed, story.operation = story.operation is not None, None
            story.fault = told.fault.kind if told.fault else story.fault
            _write(story, told.observed)
            if told.observed == was.observed and not closed:
                return story
            if not needs_more(was, told, machine.look(), story.now):
                assert machine.sight is Sight.DEAF or _rests(story), "there was more to be done"
                return story
        elif _stays(story, told):
            return story
    raise AssertionError(f"no end after {limit} turns: {story.steps}, {machine}, {story.instance.observed}")


def _rests(story: Story) -> bool:
    """Whether a look finds nothing to do or to write."""
    told = plan(story.instance, None, story.machine.look(), story.now)
    return isinstance(told, Settled) and told.observed == story.instance.observed


def _write(story: Story, observed: Observed) -> None:
    advance(story.instance.observed.phase, observed.phase)
    story.instance = replace(story.instance, observed=observed)


def _stays(story: Story, told: Next) -> bool:
    """Do it. Whether it is a wait that nothing but the world ends."""
    match told:
        case Wait(until, observed):
            assert until >= story.now
            _write(story, observed)
            if story.operation is None and story.instance.settled and observed.restart_at is None:
                return story.machine.sight is not Sight.DEAF
            story.now = max(until, story.now + timedelta(milliseconds=1))
        case Undo(fault):
            assert story.operation is not None
            live = story.operation.verb in LIVE
            for step in journal.to_undo(story.operation):
                if step.name in (StepName.LAUNCH, StepName.MAKE_DISKS) and not live:
                    story.machine.do(StepName.KILL)
                if step.name is StepName.MAKE_DISKS and not live:
                    story.machine.do(StepName.REMOVE_DISKS)
            if not live and story.machine.sight in (Sight.ENDED, Sight.GONE):
                story.machine.do(StepName.REAP)
            seen = story.machine.look()
            _write(story, facts.refused(story.instance, seen, fault, story.now, live=live))
            story.operation, story.fault = None, fault.kind
        case Act(step, observed, then):
            if observed is not None:
                _write(story, observed)
            _act(story, step, then)
        case _:
            raise AssertionError(told)
    return False


def _act(story: Story, first: StepName, then: tuple[StepName, ...]) -> None:
    if story.operation is not None:
        story.operation = journal.begin(story.operation, first, story.now, *then)
    assert not any(STEPS[step].undo for step in then)
    before = story.machine.look()
    for step in (first, *then):
        story.steps.append(step)
        try:
            story.machine.do(step)
        except NoCapacity as fault:
            _refused(story, step, fault)
            return
        if story.operation is not None:
            story.operation = journal.finish(story.operation, step)
    proof = proven(story.instance, first, before, story.machine.run)
    assert proof in (None, story.machine.look())


def _refused(story: Story, step: StepName, fault: NoCapacity) -> None:
    if story.operation is None:
        return
    if story.operation.verb in (Verb.STOP, Verb.RESTART):
        story.operation = journal.finish(story.operation, step)
    else:
        story.operation = journal.give_up(story.operation, fault)


def an_intent(verb: Verb, *, force: bool = False) -> Intent:
    """What the engine would write for it."""
    power = {Verb.STOP: Power.OFF, Verb.PAUSE: Power.PAUSED, Verb.SUSPEND: Power.SUSPENDED}.get(verb, Power.ON)
    generation = 1 if verb in LIVE else 2
    return Intent(power, verb is Verb.DELETE, generation, force)
