"""As many demands as ever: what ends is asked for again. So it shows what a decision costs while many wait."""

import heapq
import time

import msgspec

from tests.simulation.world import World, needs_of
from vbrcore.balancer.demand import Demand, Pending
from vbrcore.balancer.estimate import resources_of
from vbrcore.balancer.queue import Queue
from vbrcore.balancer.rank import expected_s


class Steady(msgspec.Struct):
    """`spent_s`: CPU seconds of the queue's own calls; `pending_least`: how many waited at every decision at least."""

    assignments: int
    pending_least: int
    spent_s: float

    @property
    def assignments_per_s(self) -> float:
        return self.assignments / self.spent_s


def play_steady(world: World, assignments: int) -> Steady:
    """Measure that many assignments and more, once all slots are taken."""
    now = min(job.starts for job in world.jobs)
    queue = Queue(world.capacities, {}, (), now)
    waiting: dict[str, Demand] = {}
    ends: list[tuple[float, str, Demand, tuple[str, ...]]] = []
    found = Steady(0, len(asked := _demands(world, now)), 0.0)
    is_full = False
    while found.assignments < assignments:
        freed = []
        while ends and ends[0][0] <= now:
            _, _, demand, taken = heapq.heappop(ends)
            freed.append(taken)
            asked.append(msgspec.structs.replace(demand, created=now, session_started=now))
        waiting.update((demand.demand_id, demand) for demand in asked)
        begun = time.process_time()
        for taken in freed:
            queue.give_back(taken)
        for demand in asked:
            queue.add(Pending(demand), now)
        pending = len(queue)
        granted = queue.grant(now)
        spent_s = time.process_time() - begun
        asked = []
        for grant in granted.grants:
            demand = waiting.pop(grant.demand_id)
            heapq.heappush(ends, (now + expected_s(demand), demand.demand_id, demand, resources_of(demand, grant)))
        if is_full:
            found.spent_s += spent_s
            found.assignments += len(granted.grants)
            found.pending_least = min(found.pending_least, pending)
        is_full = True
        now = ends[0][0]
    return found


def _demands(world: World, now: float) -> list[Demand]:
    """Ask for each disk as if it was a machine of its own."""
    return [
        Demand(
            demand_id=disk.name,
            session_id=job.name,
            level="task",
            scope=disk.name,
            created=now,
            class_rank=job.class_rank,
            manual=job.manual,
            units=needs_of(job, machine)[0],
            machine_scope=disk.name,
            machine_units=needs_of(job, msgspec.structs.replace(machine, name=disk.name))[1],
            choices=job.choices,
            session_started=now,
            gates=(f"window:{job.name}",),
            wait_for_best=job.wait_for_best,
            expected_s=disk.length_s,
        )
        for job in world.jobs
        for machine in job.machines
        for disk in machine.disks
    ]
