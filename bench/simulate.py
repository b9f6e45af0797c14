"""Play the balancer in virtual time: seeded worlds of servers, repositories, disks, failures, windows and priorities.

    .venv/bin/python bench/simulate.py --seeds 20 --json

prints a JSON object a seed, and a last one: violations (what did not hold, in words), makespan_ratio_max (of the seeds
in which nothing but slots limits; makespan / the bound of DESIGN 5), longest_wait_s, assignments_per_s (with as many
pending as there are disks, all the time; the slowest kind of world), assignments_per_s_whole (of whole worlds, from the
first demand to the last, the slowest seed), cpu_s and wall_s of everything, baselines (mean makespan ratios of simpler
schedulers in small worlds where nothing but slots limits; null: it got stuck in one of them), baselines_mixed (where
windows, failures and late sessions do, of which the simple ones heed no priority). Both rates are assignments for each
second of CPU time of the scheduler's own calls, not of wall time; the simulated world is not counted. Exit code 1 where
anything did not hold. The same seed is the same world.
"""

import argparse
import json
import sys
import time
from statistics import mean

import msgspec

from tests.simulation.baselines import baselines, ours
from tests.simulation.play import Outcome, Play
from tests.simulation.steady import play_steady
from tests.simulation.world import make_world

_PLAIN_SEEDS, _OTHER_SEEDS = (0, 4, 8, 12), (1, 2, 3, 5, 6, 7)
_STEADY_SEEDS = (0, 1, 2)  # one of each kind; windows are open here, which makes the fourth like the second
_STEADY_ASSIGNMENTS = 2000
_BASELINE_DISKS, _BASELINE_PROXIES, _BASELINE_REPOSITORIES = 500, 10, 4


def play(seed: int, *, disks: int, proxies: int, repositories: int) -> Outcome:
    return Play(make_world(seed, disks=disks, proxies=proxies, repositories=repositories), ours).run()


def steady(*, disks: int, proxies: int, repositories: int) -> float:
    """Return the assignments for each second of CPU time in the slowest kind of world, with `disks` pending."""
    running = 3 * proxies  # more than there are slots
    worlds = (
        make_world(seed, disks=disks + running, proxies=proxies, repositories=repositories) for seed in _STEADY_SEEDS
    )
    return min(play_steady(world, min(disks, _STEADY_ASSIGNMENTS)).assignments_per_s for world in worlds)


def compare(disks: int, seeds: tuple[int, ...]) -> dict[str, float | None]:
    """Return the mean makespan ratio of each scheduler over small worlds; None: it got stuck in one of them."""
    found: dict[str, list[Outcome]] = {}
    for seed in seeds:
        world = make_world(seed, disks=disks, proxies=_BASELINE_PROXIES, repositories=_BASELINE_REPOSITORIES)
        for name, schedule in {"ours": ours, **baselines(seed)}.items():
            found.setdefault(name, []).append(Play(world, schedule).run())
    return {
        name: None if any(one.violations for one in outcomes) else round(mean(one.ratio for one in outcomes), 4)
        for name, outcomes in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--disks", type=int, default=10_000)
    parser.add_argument("--proxies", type=int, default=200)
    parser.add_argument("--repositories", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="what is printed is JSON in any case")
    choice = parser.parse_args()
    begun = time.monotonic()
    outcomes = []
    for seed in range(choice.first, choice.first + choice.seeds):
        outcome = play(seed, disks=choice.disks, proxies=choice.proxies, repositories=choice.repositories)
        outcomes.append(outcome)
        print(json.dumps(msgspec.to_builtins(outcome)), flush=True)
    plain = [one.ratio for one in outcomes if one.kind == "plain"]
    violations = [text for one in outcomes for text in one.violations]
    summary = {
        "seeds": len(outcomes),
        "violations": violations,
        "makespan_ratio_max": max(plain, default=None),
        "makespan_ratio_seeds": len(plain),
        "longest_wait_s": max(one.longest_wait_s for one in outcomes),
        "assignments_per_s": round(
            steady(disks=choice.disks, proxies=choice.proxies, repositories=choice.repositories)
        ),
        "assignments_per_s_whole": round(min(one.assignments_per_s for one in outcomes)),
        "baselines": compare(min(choice.disks, _BASELINE_DISKS), _PLAIN_SEEDS),
        "baselines_mixed": compare(min(choice.disks, _BASELINE_DISKS), _OTHER_SEEDS),
    }
    summary |= {"cpu_s": round(time.process_time(), 1), "wall_s": round(time.monotonic() - begun, 1)}
    print(json.dumps(summary))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
