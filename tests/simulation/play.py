"""Play a world in virtual time with a scheduler, and look at each moment whether all that must hold does."""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from tests.simulation.world import Disk, JobOf, MachineOf, World, needs_of
from vbrcore.balancer.demand import RANK_OPEN_MACHINE, Demand, Pending
from vbrcore.balancer.estimate import resources_of
from vbrcore.balancer.queue import Granted
from vbrcore.balancer.rank import AGEING_ENDS_AT
from vbrcore.balancer.room import Capacities, Closed

# Ageing lifts the lowest rank to its end in that time; nobody may then wait for longer than the rest of the work twice.
_AGEING_S = (AGEING_ENDS_AT - 110) * 36.0

_SHUT_S = 3600.0  # how long a window stays shut after its end


class Scheduler(Protocol):
    """What the balancer's queue does, for others to be compared with."""

    def __len__(self) -> int: ...
    def add(self, pending: Pending, now: float) -> None: ...
    def give_back(self, resources: Iterable[str]) -> None: ...
    def set_capacities(self, capacities: Capacities, now: float) -> None: ...
    def grant(self, now: float) -> Granted: ...


class Outcome(msgspec.Struct):
    """`ratio`: makespan / bound. `assignments_per_s` counts the scheduler's own CPU time alone."""

    seed: int
    kind: str
    makespan_s: float
    bound_s: float
    ratio: float
    longest_wait_s: float
    assignments: int
    decisions: int
    most_pending: int
    assignments_per_s: float
    violations: list[str]


class _Waiting(msgspec.Struct):
    demand: Demand
    job: JobOf
    machine: MachineOf
    disk: Disk


class _Run(msgspec.Struct):
    waiting: _Waiting
    server: str
    resources: list[str]
    is_over: bool = False


class Play:
    """One world and one scheduler. The ledger of what is taken is kept here, not asked for."""

    def __init__(self, world: World, schedule: Callable[[Capacities, float], Scheduler]) -> None:
        self._world = world
        self._now = min(job.starts for job in world.jobs)
        self._begun = self._now
        self._closed: dict[str, Closed] = {}
        self._queue = schedule(world.capacities, self._now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: dict[str, _Waiting] = {}
        self._runs: dict[str, _Run] = {}
        self._left: Counter[str] = Counter()
        self._ledger: Counter[str] = Counter()
        self._numbers = 0
        self._spent_s = 0.0
        self._done = 0
        self._closes_changed = False
        self._outcome = Outcome(world.seed, world.kind, 0.0, world.bound_s(), 0.0, 0.0, 0, 0, 0, 0.0, [])

    def run(self) -> Outcome:
        """Play to the end, or to where nothing moves any more."""
        for job in self._world.jobs:
            self._at(job.starts, lambda job=job: self._begin(job))  # type: ignore[misc]
            for moment in (job.opens, job.closes, job.closes + _SHUT_S) if job.closes else ():
                self._at(max(moment, self._begun), self._look_at_windows)
        self._look_at_windows()
        for failure in self._world.failures:
            self._at(failure.at, lambda one=failure: self._fail(one.proxy, one.at + one.length_s))  # type: ignore[misc]
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now:
                heapq.heappop(self._events)[2]()
            self._decide()
        return self._finish()

    # --- what happens -------------------------------------------------------------------------------

    def _at(self, moment: float, what: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (moment, self._numbers, what))

    def _begin(self, job: JobOf) -> None:
        for machine in job.machines:
            self._ask(job, machine, machine.disks[0], first=True)

    def _ask(self, job: JobOf, machine: MachineOf, disk: Disk, *, first: bool) -> None:
        units, machine_units = needs_of(job, machine)
        self._numbers += 1
        demand = Demand(
            demand_id=f"{disk.name}/{self._numbers}",
            session_id=job.name,
            level="task",
            scope=disk.name,
            created=self._now,
            class_rank=job.class_rank if first else RANK_OPEN_MACHINE,
            manual=job.manual,
            units=units,
            machine_scope=machine.name if first else "",
            machine_units=machine_units if first else (),
            choices=job.choices,
            session_started=job.starts,
            gates=(f"window:{job.name}",) if first else (),
            wait_for_best=job.wait_for_best,
            expected_s=disk.expected_s,
        )
        self._waiting[demand.demand_id] = _Waiting(demand, job, machine, disk)
        self._timed(lambda: self._queue.add(Pending(demand), self._now))

    def _end(self, run: _Run) -> None:
        if run.is_over:
            return
        self._done += 1
        machine = run.waiting.machine
        self._left[machine.name] -= 1
        last = self._left[machine.name] == 0
        more = [unit.resource for unit in needs_of(run.waiting.job, machine)[1]] if last else []
        self._give_back(run, more)

    def _fail(self, proxy: str, back: float) -> None:
        """A proxy is away: its disks are tried again elsewhere; their machines' snapshots are open still."""
        self._closed[f"proxy:{proxy}"] = Closed("server_away", f"proxy {proxy} does not answer")
        self._closes_changed = True
        for run in [one for one in self._runs.values() if one.server == proxy]:
            self._give_back(run, [])
            self._ask(run.waiting.job, run.waiting.machine, run.waiting.disk, first=False)
        self._at(back, lambda: self._back(proxy))

    def _back(self, proxy: str) -> None:
        del self._closed[f"proxy:{proxy}"]
        self._closes_changed = True

    def _look_at_windows(self) -> None:
        for job in self._world.jobs:
            # After its end this window does not open again today: what is left runs once all others are done.
            name = f"window:{job.name}"
            if job.closes and not job.opens <= self._now < job.closes and self._now < job.closes + _SHUT_S:
                self._closed[name] = Closed("outside_window", "the window of the job is closed", until=job.opens)
            elif self._closed.pop(name, None) is None:
                continue
            self._closes_changed = True

    def _give_back(self, run: _Run, more: list[str]) -> None:
        run.is_over = True
        del self._runs[run.waiting.demand.demand_id]
        freed = [*run.resources, *more]
        self._ledger.subtract(freed)
        self._timed(lambda: self._queue.give_back(freed))

    # --- decisions ----------------------------------------------------------------------------------

    def _decide(self) -> None:
        if self._closes_changed:
            self._closes_changed = False
            now_closed = msgspec.structs.replace(self._world.capacities, closed=dict(self._closed))
            self._timed(lambda: self._queue.set_capacities(now_closed, self._now))
        self._outcome.most_pending = max(self._outcome.most_pending, len(self._queue))
        granted = self._timed(lambda: self._queue.grant(self._now))
        self._outcome.decisions += 1
        begun_more = False
        for grant in granted.grants:
            waiting = self._waiting.pop(grant.demand_id)
            demand = waiting.demand
            taken = resources_of(demand, grant)
            self._check(demand, taken)
            own = {unit.resource for unit in demand.machine_units}
            run = _Run(waiting, grant.server, [name for name in taken if name not in own])
            self._runs[demand.demand_id] = run
            self._outcome.assignments += 1
            self._outcome.longest_wait_s = max(self._outcome.longest_wait_s, self._now - demand.created)
            self._at(self._now + waiting.disk.length_s, lambda run=run: self._end(run))  # type: ignore[misc]
            if own:
                self._left[waiting.machine.name] = len(waiting.machine.disks)
                begun_more = begun_more or len(waiting.machine.disks) > 1
                for disk in waiting.machine.disks[1:]:
                    self._ask(waiting.job, waiting.machine, disk, first=False)
        if begun_more:
            self._at(self._now, lambda: None)  # what was asked for just now is looked at as well

    def _check(self, demand: Demand, taken: tuple[str, ...]) -> None:
        self._ledger.update(taken)
        for name in taken:
            if self._ledger[name] > self._world.capacities.limit(name):
                self._violate(f"{name} is over-committed by {demand.demand_id}")
        for name in (*taken, *demand.gates):
            if name in self._closed:
                self._violate(f"{demand.demand_id} was given {name}, which is closed")

    def _finish(self) -> Outcome:
        outcome = self._outcome
        disks = sum(len(machine.disks) for job in self._world.jobs for machine in job.machines)
        outcome.makespan_s = self._now - self._begun
        outcome.ratio = outcome.makespan_s / outcome.bound_s
        outcome.assignments_per_s = outcome.assignments / self._spent_s
        if self._done != disks or len(self._queue) or self._runs:
            self._violate(f"deadlock: {disks - self._done} of {disks} disks never ended")
        if any(self._ledger.values()):
            self._violate("units were never given back")
        closed_s = max((max(job.closes + _SHUT_S - job.starts, 0) for job in self._world.jobs if job.closes), default=0)
        if outcome.longest_wait_s > _AGEING_S + closed_s + 2 * outcome.bound_s:
            self._violate(f"starvation: somebody waited for {outcome.longest_wait_s:.0f} s")
        return outcome

    def _violate(self, text: str) -> None:
        self._outcome.violations.append(f"seed {self._world.seed}: {text}")

    def _timed(self, what: Callable[[], "Granted | None"]) -> Granted:
        begun = time.process_time()
        result = what()
        self._spent_s += time.process_time() - begun
        return result or Granted((), frozenset())
