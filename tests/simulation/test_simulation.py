"""A short form of what script/simulate plays for as long as one likes."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.simulation.baselines import Simple, baselines, ours
from tests.simulation.play import Play
from tests.simulation.steady import play_steady
from tests.simulation.world import make_world
from vbrcore.balancer.demand import Pending
from vbrcore.balancer.queue import Queue
from vbrcore.balancer.room import Capacities

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "simulate.py"
SMALL = {"disks": 400, "proxies": 8, "repositories": 4}


@pytest.mark.parametrize("seed", range(20))
def test_in_no_world_is_anything_over_committed_starved_or_stuck(seed: int) -> None:
    outcome = Play(make_world(seed, **SMALL), ours).run()
    assert outcome.violations == []
    assert outcome.assignments >= SMALL["disks"]
    if outcome.kind == "plain":
        assert outcome.ratio <= 1.05


def test_a_world_is_the_same_again() -> None:
    first, second = (msgspec.to_builtins(Play(make_world(2, **SMALL), ours).run()) for _ in range(2))
    for one in (first, second):
        del one["assignments_per_s"]
    assert first == second


def test_simpler_schedulers_take_longer_or_get_stuck() -> None:
    world = make_world(0, **SMALL)
    best = Play(world, ours).run().ratio
    for name, schedule in baselines(0).items():
        outcome = Play(world, schedule).run()
        if name == "fifo":
            # A machine that waits for its datastore holds up the further disks of the one that has the place.
            assert any("deadlock" in text for text in outcome.violations)
        elif name != "no_reservation":
            assert outcome.ratio > best, name


def _generous(capacities: Capacities, now: float) -> Queue:
    """Gives units that there are not."""
    limits = {name: count * 2 if name.startswith("proxy:") else count for name, count in capacities.limits.items()}
    return Queue(Capacities(limits), {}, (), now)


class _Deaf(Simple):
    """Forgets every tenth demand."""

    count = 0

    def add(self, pending: Pending, now: float) -> None:
        self.count += 1
        if self.count % 10:
            super().add(pending, now)


def test_what_a_wrong_scheduler_does_is_seen() -> None:
    world = make_world(0, disks=100, proxies=4, repositories=2)
    found = Play(world, _generous).run().violations
    assert any("over-committed" in text for text in found)

    def deaf(capacities: Capacities, _now: float) -> _Deaf:
        return _Deaf(capacities, lambda choices, _: choices[0], strict=False)

    assert any("deadlock" in text for text in Play(world, deaf).run().violations)


@pytest.mark.parametrize("seed", range(4))
def test_a_queue_of_which_the_ended_come_again_goes_on(seed: int) -> None:
    found = play_steady(make_world(seed, **SMALL), 600)
    assert found.assignments >= 600
    assert found.pending_least >= SMALL["disks"] - 2 * SMALL["proxies"]


def test_the_program_sums_up() -> None:
    command = [sys.executable, str(PROGRAM), "--seeds", "2", "--disks", "40", "--proxies", "4", "--repositories", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert summary["violations"] == []
    assert summary["makespan_ratio_seeds"] == 1
    assert set(summary["baselines"]) == {"ours", *baselines(0)}
