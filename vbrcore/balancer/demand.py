"""What sessions ask for and what they are given: the values that go into and come out of the balancer."""

from collections.abc import Iterator
from typing import Literal

import msgspec

# Classes of DESIGN section 5; start and ageing are added by the rank.
CLASS_RESTORE = 800
CLASS_CLEANUP = 600
CLASS_QUICK = 500
CLASS_HIGH = 400
CLASS_REGULAR = 300
CLASS_COPY = 200
CLASS_ARCHIVE = 100
RANK_OPEN_MACHINE = 700


def window_gate(job_id: str) -> str:
    """Return the name of the gate that is closed while a job's window is shut."""
    return f"window:{job_id}"


class Unit(msgspec.Struct, frozen=True):
    """One place on one resource, e.g. `proxy:<server id>`, `repository:<id>`, `host:<server id>`,
    `chain:<repository id>/<chain directory>`, `machine:<hypervisor id>/<machine id>`,
    `datastore:<hypervisor id>/<name>`.
    """

    resource: str


class Choice(msgspec.Struct, frozen=True):
    """A proxy that can do it, and how; `units` are what it costs there (proxy slot, host budget of each server).

    A demand lists the best mode first. `preference` orders servers of one mode (site, affinity): the lowest is best;
    among equals the least loaded is taken. `merits`: what it is preferred for (codes of `vbrcore.balancer.words`).
    """

    server: str
    mode: str
    units: tuple[Unit, ...]
    preference: int = 0
    merits: tuple[str, ...] = ()


class Excluded(msgspec.Struct, frozen=True):
    """A server that is no candidate, and why: `reason` is a code of `vbrcore.balancer.words`, `detail` says it."""

    server: str
    reason: str
    detail: str


class Demand(msgspec.Struct, frozen=True):
    """Everything that must be free at once. `held` units go to the session's `scope` and are given back with it.

    Levels: `chain` (scope "session"), `task` (scope = task id; with a machine's first disk `machine_units` are taken in
    the same transaction under the scope `machine_scope` and kept until that scope is released).
    Without `choices` no proxy is needed. `created` is seconds since the epoch. `writes`: it makes a repository grow,
    but none of those whose units are named in `only_read`.
    `gates` take no units but may be closed, e.g. `window:<job id>`. `wait_for_best`: rather wait than use a worse mode.
    `expected_s`: what it took last time (0: not known, its size says it). `ages_from`: since when it could have run,
    seconds since the epoch, where that is after `created`. `excluded`: servers that are no choice, to be explained.
    """

    demand_id: str
    session_id: str
    level: Literal["chain", "task"]
    scope: str
    created: float
    class_rank: int
    manual: bool
    units: tuple[Unit, ...] = ()
    machine_scope: str = ""
    machine_units: tuple[Unit, ...] = ()
    choices: tuple[Choice, ...] = ()
    expected_bytes: int = 0
    session_started: float = 0.0
    writes: bool = True
    only_read: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    wait_for_best: bool = False
    expected_s: float = 0.0
    ages_from: float = 0.0
    excluded: tuple[Excluded, ...] = ()


class Pending(msgspec.Struct, frozen=True):
    """A demand that waits. `passed_since`: when a lower one first started before it; None: never."""

    demand: Demand
    passed_since: float | None = None


class Grant(msgspec.Struct, frozen=True):
    """`server` and `mode` are those of the choice taken ("": none was needed)."""

    demand_id: str
    server: str = ""
    mode: str = ""


class Wait(msgspec.Struct, frozen=True):
    """Why a demand is pending: `reason` is machine-readable (`no_free_proxy_slot`, `machine_in_use`, ...).

    `detail` is for people; `place` counts from 1 in the queue.
    """

    demand_id: str
    reason: str
    detail: str
    place: int


class Decisions(msgspec.Struct, frozen=True):
    """What to grant, why each other demand waits, and which of these were passed by a lower one now."""

    grants: tuple[Grant, ...]
    waits: tuple[Wait, ...]
    passed: frozenset[str]


def units_taken(demand: Demand, grant: Grant) -> Iterator[tuple[str, str]]:
    """Yield (scope, resource) of every unit that a grant takes."""
    choice = next((one for one in demand.choices if (one.server, one.mode) == (grant.server, grant.mode)), None)
    for unit in (*demand.units, *(choice.units if choice else ())):
        yield demand.scope, unit.resource
    for unit in demand.machine_units:
        yield demand.machine_scope, unit.resource
