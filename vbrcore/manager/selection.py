"""Which machines a job means: names and patterns against an inventory. Pure."""

from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

from vbrcore.model.inventory import Machine
from vbrcore.model.job import Job

_PATTERN_CHARACTERS = frozenset("*?[")


class Selection(msgspec.Struct, frozen=True):
    """`missing` are names that are not there; `vanished` patterns matched before and match nothing now.

    `unmatched` are patterns that never matched anything: worth a warning, no failure (DESIGN section 4.2).
    """

    machines: tuple[Machine, ...]
    missing: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def is_pattern(selector: str) -> bool:
    return not _PATTERN_CHARACTERS.isdisjoint(selector)


def _matches(machine: Machine, selector: str) -> bool:
    return selector in {machine.name, machine.machine_id} or (
        is_pattern(selector) and fnmatchcase(machine.name, selector)
    )


def select(
    job: Job, inventory: Sequence[Machine], known_names: Iterable[str], without: Container[str] = ()
) -> Selection:
    """Resolve the job's selectors. `known_names` are the machines that the job has points of.

    `without`: ids of machines that this session leaves out, because an earlier one has done them.
    """
    known = tuple(known_names)
    chosen: dict[str, Machine] = {}
    missing: list[str] = []
    vanished: list[str] = []
    unmatched: list[str] = []
    for selector in job.machines:
        found = [machine for machine in inventory if _matches(machine, selector)]
        chosen.update((machine.machine_id, machine) for machine in found)
        if found:
            continue
        if not is_pattern(selector):
            missing.append(selector)
        elif any(fnmatchcase(name, selector) for name in known):
            vanished.append(selector)
        else:
            unmatched.append(selector)
    kept = tuple(
        machine
        for machine in chosen.values()
        if machine.machine_id not in without and not any(_matches(machine, selector) for selector in job.exclude)
    )
    return Selection(kept, tuple(missing), tuple(vanished), tuple(unmatched))
