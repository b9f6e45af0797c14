"""Seeded worlds: servers, repositories, jobs over machines with disks, failures and windows. A seed is one world."""

import random

import msgspec

from vbrcore.balancer.candidates import Proxy, Wishes, candidates
from vbrcore.balancer.demand import Choice, Unit
from vbrcore.balancer.rank import session_class
from vbrcore.balancer.room import Capacities

EPOCH = 1_800_000_000.0  # a whole quarter of an hour
_MEDIAN_S = 300.0
_SITES = ("north", "south", "west")
_MODES = ("direct", "network")
_PROXY_SLOTS = 2
_KINDS = ("plain", "priorities", "failures", "windows")


class Disk(msgspec.Struct, frozen=True):
    """`length_s`: what it takes; `expected_s`: what the balancer is told, 30 % off at most."""

    name: str
    length_s: float
    expected_s: float


class MachineOf(msgspec.Struct, frozen=True):
    name: str
    datastore: str
    disks: tuple[Disk, ...]


class JobOf(msgspec.Struct, frozen=True):
    """A session of a job. `opens` and `closes` of its window are seconds since the epoch; 0: always open."""

    name: str
    class_rank: int
    manual: bool
    starts: float
    repository: str
    choices: tuple[Choice, ...]
    machines: tuple[MachineOf, ...]
    wait_for_best: bool
    opens: float = 0.0
    closes: float = 0.0


class Failure(msgspec.Struct, frozen=True):
    """A proxy is away from `at` for `length_s`."""

    proxy: str
    at: float
    length_s: float


class World(msgspec.Struct, frozen=True):
    """`kind`: `plain` has one class, all of it there from the start, and limits nothing but slots."""

    seed: int
    kind: str
    capacities: Capacities
    jobs: tuple[JobOf, ...]
    failures: tuple[Failure, ...]

    def bound_s(self) -> float:
        """The greatest of total work / slots, each repository's work / slots, the longest disk: nobody is faster."""
        lengths = [(job.repository, disk.length_s) for job in self.jobs for one in job.machines for disk in one.disks]
        limits = self.capacities.limits
        slots = sum(units for name, units in limits.items() if name.startswith("proxy:"))
        bounds = [sum(length for _, length in lengths) / slots, max(length for _, length in lengths)]
        for repository in {name for name, _ in lengths}:
            work = sum(length for name, length in lengths if name == repository)
            bounds.append(work / limits[f"repository:{repository}"])
        return max(bounds)


def make_world(seed: int, *, disks: int, proxies: int, repositories: int) -> World:
    rng = random.Random(seed)  # noqa: S311 - a world is to be drawn again from its seed
    kind = _KINDS[seed % len(_KINDS)]
    servers = [
        Proxy(f"p{number}", f"p{number}", rng.choice(_SITES), slots=_PROXY_SLOTS, modes=_reach(rng))
        for number in range(proxies)
    ]
    slots = proxies * _PROXY_SLOTS
    limits = {f"proxy:{one.server_id}": one.slots for one in servers}
    limits |= {
        f"host:{one.server_id}": one.slots + (0 if rng.random() < 0.2 and kind != "plain" else 2) for one in servers
    }
    targets = {}
    for number in range(repositories):
        fair = max(2, round(slots / repositories))
        limits[f"repository:r{number}"] = 3 * fair if kind == "plain" else rng.randint(max(1, fair // 2), 3 * fair)
        # Every fifth repository lives on a proxy.
        beside = rng.choice(servers).server_id if number % 5 == 4 and kind != "plain" else f"s{number}"
        limits.setdefault(f"host:{beside}", 4 * limits[f"repository:r{number}"])
        targets[f"r{number}"] = beside
    choices = {
        (site, repository): candidates(servers, Wishes(_MODES, site=site), server_id).choices
        for site in _SITES
        for repository, server_id in targets.items()
    }
    jobs = _jobs(rng, kind, disks, targets, choices)
    return World(seed, kind, Capacities(limits), jobs, _failures(rng, kind, servers))


def needs_of(job: JobOf, machine: MachineOf) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """Return what each disk needs, and what the machine needs with its first."""
    return (Unit(f"repository:{job.repository}"),), (
        Unit(f"machine:h/{machine.name}"),
        Unit(f"datastore:h/{machine.datastore}"),
    )


def _reach(rng: random.Random) -> tuple[str, ...]:
    return _MODES if rng.random() < 0.5 else ("network",)


def _jobs(
    rng: random.Random,
    kind: str,
    disks: int,
    targets: dict[str, str],
    choices: dict[tuple[str, str], tuple[Choice, ...]],
) -> tuple[JobOf, ...]:
    jobs: list[JobOf] = []
    left = disks
    names = sorted(targets)
    while left > 0:
        number = len(jobs)
        count = min(left, 100)
        left -= count
        repository = names[number % len(names)]
        starts, class_rank, opens, closes = EPOCH, session_class("backup"), 0.0, 0.0
        if kind != "plain":
            starts += rng.uniform(0, 4 * 3600)
            class_rank = session_class(rng.choice(("backup", "backup", "copy", "restore")), high=rng.random() < 0.2)
        if kind == "windows" and rng.random() < 0.5:
            opens, closes = starts + rng.uniform(-1800, 3600), starts + rng.uniform(7200, 4 * 3600)
        jobs.append(
            JobOf(
                name=f"j{number}",
                class_rank=class_rank,
                manual=kind != "plain" and rng.random() < 0.2,
                starts=starts,
                repository=repository,
                choices=choices[rng.choice(_SITES), repository],
                machines=_machines(rng, f"j{number}", count),
                wait_for_best=kind == "failures" and rng.random() < 0.1,
                opens=opens,
                closes=closes,
            )
        )
    return tuple(jobs)


def _machines(rng: random.Random, job: str, disks: int) -> tuple[MachineOf, ...]:
    machines: list[MachineOf] = []
    while disks > 0:
        count = min(disks, rng.choice((1, 1, 1, 2, 3)))
        disks -= count
        name = f"{job}-m{len(machines)}"
        lengths = [rng.lognormvariate(0, 1) * _MEDIAN_S for _ in range(count)]
        drawn = [Disk(f"{name}-d{n}", length, length * rng.uniform(0.7, 1.3)) for n, length in enumerate(lengths)]
        drawn.sort(key=lambda disk: -disk.expected_s)  # a machine begins with its longest disk
        machines.append(MachineOf(name, f"{job}-{rng.randrange(4)}", tuple(drawn)))
    return tuple(machines)


def _failures(rng: random.Random, kind: str, servers: list[Proxy]) -> tuple[Failure, ...]:
    if kind != "failures":
        return ()
    victims = rng.sample(servers, max(1, len(servers) // 10))
    return tuple(Failure(one.server_id, EPOCH + rng.uniform(600, 4 * 3600), rng.uniform(300, 7200)) for one in victims)
