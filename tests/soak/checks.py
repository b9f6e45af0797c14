"""What must hold whoever was killed. Each check returns what does not hold, in words."""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.soak.lab import DISKS, KEPT_POINTS, Done, Lab, Operation, sha256_of_image
from tests.soak.victims import Blow, Watch
from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.maps import walk
from vbrcore.chain.files import LOCK_NAME, ChainFiles
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.sweep import extent_bytes, numbered_rows
from vbrcore.model.point import Point
from vbrcore.model.session import Session
from vbrcore.storage.repository import IDENTITY_NAME

QUIET_S: Final = 90.0  # after the last session has ended, all its processes and leases are gone
ENDED_S: Final = 240.0  # a machine is tried again after 5, 15 and 45 s; a lease lasts 60 s
SERVED: Final = frozenset({"success", "warning"})
_MACHINES: Final = {"nightly": frozenset(disk.machine for disk in DISKS), "hourly": frozenset({"db"})}
_POLL_S: Final = 0.05
# 5 % that may be dead, and 3 % that need not be looked for.
_MOST_PER_NEEDED: Final = 1.08
_FILE_BYTES: Final = 128 * 1024  # of slots, contents lists and tables, and the odd block of each file system


def settle(lab: Lab, watch: Watch) -> list[str]:
    """Wait until all sessions have ended and left nothing. The service that this takes is started by the command."""
    began = ended = time.monotonic()
    with lab.catalog() as catalog:
        while True:
            if not any(one.role == "service" for one in watch.living()):
                lab.command("session", "list")
            live = catalog.live_sessions()
            now = time.monotonic()
            if live:
                ended = now
                if now - began > ENDED_S:
                    return [f"session {one.session_id} ({one.kind}) never ended" for one in live]
            else:
                left = [f"process {one.pid} ({one.role}) of session {one.session_id}" for one in watch.of_sessions()]
                left += [f"lease of session {session_id}" for session_id in catalog.holders()]
                left += [f"{units} units of {resource}" for resource, units in catalog.usage().items()]
                left += [f"request {waiting.demand_id} ({waiting.reason})" for waiting in catalog.waiting()]
                left += [f"journal entry {row.entry_id} of {row.session_id}" for row in catalog.journal_orphans()]
                if not left:
                    return []
                if now - ended > QUIET_S:
                    return [f"{what} is left {QUIET_S:.0f} s after the last session" for what in left]
            time.sleep(_POLL_S)


def truth(lab: Lab, sessions: Iterable[Session], blows: Sequence[Blow]) -> list[str]:
    """What sessions say of themselves is what happened; one that nobody touched has succeeded."""
    failures = []
    touched = {blow.session_id for blow in blows}
    # Who hangs for long holds up others, and a helper's session is not known where its parent is gone.
    alone = not any(blow.blow == "hang" or (blow.role == "qemu" and not blow.session_id) for blow in blows)
    unserved = any(blow.role == "service" for blow in blows)
    committed = _by_session(_points_in_files(lab))
    with lab.catalog() as catalog:
        tasks = {session.session_id: catalog.tasks(session.session_id) for session in sessions}
    for session in sessions:
        name = f"session {session.session_id} ({session.kind} of {session.name}, {session.result})"
        log = lab.log_of(session)
        closing = "been stopped successfully" if session.result in SERVED else "stopped with failures"
        if not log or f"Job has {closing}. Name: [{session.name}]" not in log[-1]:
            failures.append(f"{name}: its log ends with {log[-1:]}")
        if session.result not in {*SERVED, "failed"}:
            failures.append(f"{name}: ended without a result")
        if session.result == "failed" and session.error is None:
            failures.append(f"{name}: failed without a reason")
        never_begun = unserved and session.started is None
        if session.result == "failed" and alone and session.session_id not in touched and not never_begun:
            failures.append(f"{name}: failed although none of its processes was touched: {session.error}")
        open_tasks = [task.task_id for task in tasks[session.session_id] if task.state in {"pending", "running"}]
        if open_tasks:
            failures.append(f"{name}: has ended with open tasks {open_tasks}")
        if session.kind == "backup":
            machines = [point.machine for point in committed.get(session.session_id, [])]
            wanted = _MACHINES[session.name]
            if len(set(machines)) != len(machines) or set(machines) - wanted:
                failures.append(f"{name}: has points of {machines}")
            if session.result in SERVED and set(machines) != wanted:
                failures.append(f"{name}: has points of {machines} only, not of {sorted(wanted)}")
    return failures


def answer(operation: Operation, done: Done, sessions: Iterable[Session], blows: Sequence[Blow]) -> list[str]:
    """What a command says at its end is its session's result. Who was cut off from the service may say so instead."""
    name = f"vbrcore {' '.join(operation.args)}: exit code {done.code}"
    if "Traceback" in done.errors or "internal_error" in done.errors:
        return [f"{name}: {done.errors}"]
    by_id = {session.session_id: session for session in sessions}
    told = by_id.get((done.answer or {}).get("session_id", ""))
    if told is None:
        disturbed = any(blow.role in {"service", "command"} for blow in blows)
        return [] if disturbed and done.code else [f"{name} without a session: {done.errors.strip()}"]
    if "--detach" in operation.args or "result" not in done.answer:
        return []
    if done.answer["result"] != told.result or (done.code == 0) != (told.result in SERVED):
        return [f"{name} says {done.answer['result']}, session {told.session_id} says {told.result}"]
    return []


def points(
    lab: Lab, seen: Mapping[str, Point], deleted: Mapping[str, Point], maybe_gone: set[str], *, settled: bool
) -> list[str]:
    """Points seen before are there still, in the files and in the listing. `settled`: both say exactly the same.

    `deleted` are those that a session of this round was to delete, `maybe_gone` those where it did not end well.
    What retention lets go may be gone, too; it may have counted what was deleted then.
    """
    found = {point.point_id: point for point in _points_in_files(lab)}
    expired = _expired({**seen, **deleted, **found}.values(), found.keys() | deleted.keys())
    in_files, listed = set(found), {view["point_id"] for view in lab.must("point", "list")}
    certain = seen.keys() - maybe_gone - expired
    failures = [f"point {point_id} is lost from the files" for point_id in certain - in_files]
    failures += [f"point {point_id} is not listed any more" for point_id in certain - listed]
    if settled:
        failures += [f"point {point_id} stands in the files and is not listed" for point_id in in_files - listed]
        maybe_gone = expired = set()
    failures += [f"point {point_id} is listed but in no file" for point_id in listed - in_files - maybe_gone - expired]
    return failures


def kept(lab: Lab, jobs: Iterable[str]) -> list[str]:
    """Jobs whose last session went well keep what they say, and no more."""
    found = _points_in_files(lab)
    beyond = _expired(found, {point.point_id for point in found})
    return [
        f"point {point.point_id} of {point.machine} stays although {point.job_name} keeps {KEPT_POINTS}"
        for point in found
        if point.point_id in beyond and point.job_name in jobs
    ]


def newest(found: Iterable[Point], count: int) -> set[str]:
    """Return the ids of the newest points of each machine in each job."""
    chosen: set[str] = set()
    by_machine: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        by_machine.setdefault((point.job_id, point.machine_id), []).append(point)
    for of_machine in by_machine.values():
        of_machine.sort(key=lambda point: point.sequence)
        chosen.update(point.point_id for point in of_machine[-count:])
    return chosen


def _expired(all_points: Iterable[Point], there: Collection[str]) -> set[str]:
    """Return what the jobs' policy lets go: as many newer points of the same machine as it keeps are there."""
    every = list(all_points)
    stay = newest((point for point in every if point.point_id in there), KEPT_POINTS)
    oldest: dict[tuple[str, str], int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for point in every:
        if point.point_id in stay:
            key = point.job_id, point.machine_id
            oldest[key] = min(oldest.get(key, point.sequence), point.sequence)
            counts[key] += 1
    return {
        point.point_id
        for point in every
        if counts[point.job_id, point.machine_id] >= KEPT_POINTS
        and point.sequence < oldest[point.job_id, point.machine_id]
    }


def restored(lab: Lab, chosen: Iterable[Point], rng: random.Random) -> list[str]:
    """All disks of these points restore to what they held in the session that made them."""
    failures = []
    for point in chosen:
        if point.session_id not in lab.facts:
            failures.append(f"point {point.point_id} is of session {point.session_id}, which nobody ran")
            continue
        for disk, expected in lab.expected(point).items():
            found = lab.restored(point, disk, rng.choice(("raw", "raw", "raw", "qcow2")))
            if found != expected:
                failures.append(f"point {point.point_id}, {disk} of {point.machine}: {found} instead of {expected}")
    return failures


def outputs(lab: Lab, wanted: dict[Path, tuple[Done, dict[str, str]]]) -> list[str]:
    """Restores have made whole files and machines, or nothing. Removes them. `wanted`: path → answer, name → hash."""
    failures = []
    for path, (done, hashes) in wanted.items():
        if not path.exists():
            if done.code == 0:
                failures.append(f"{path} is said to be restored and is not there")
            continue
        files = {path.name: path} if path.is_file() else {file.name: file for file in path.iterdir()}
        for name, expected in hashes.items():
            # A machine's disks are made raw, under their own names.
            file = path if path.is_file() else files.get(f"{Path(name).stem}.raw")
            found = sha256_of_image(file) if file is not None else "nothing"
            if found != expected:
                failures.append(f"{path}: {name} is {found} instead of {expected}")
        for file in files.values():
            file.unlink()
        if path.is_dir():
            path.rmdir()
    left = [entry.name for entry in lab.out.iterdir()]
    left += [entry.name for entry in lab.spare.iterdir()]
    return failures + [f"{name} is left by a restore" for name in left]


def repository(lab: Lab, jobs: Collection[str]) -> list[str]:
    """There is nothing in the repository that its files do not name, and nothing behind their ends.

    What a reader that was killed left pinned goes with the next session of its chain, so only those of `jobs` are free
    of that.
    """
    failures = []
    known = {IDENTITY_NAME}
    for directory, chain in lab.chains().items():
        known.add(f"{directory}/{LOCK_NAME}")
        known.update(file.name for file in chain.files)
        failures += [f"{name} cannot be read: {reason}" for name, reason in chain.unreadable]
        failures += [f"{directory}: file {file_id} is missing" for file_id in chain.missing()]
        lists = {file.slot.generation_id: file.contents.generation_files for file in chain.files}  # the newest of each
        failures += [
            f"{file.name} stands in no contents list"
            for file in chain.files
            if file.file_id.hex() not in lists[file.slot.generation_id]
        ]
        storage = lab.storage()
        for file in chain.files:
            behind = storage.size(file.name) - file.slot.body_end
            if behind >= 4096:
                failures.append(f"{file.name}: {behind} bytes lie behind its end")
    there = {str(path.relative_to(lab.repository)) for path in lab.repository.rglob("*") if path.is_file()}
    pins = {name for name in there if "/pin-" in name and name.partition("_")[0] not in jobs}
    return failures + [f"{name} is a stranger in the repository" for name in there - known - pins]


def space(lab: Lab, jobs: Collection[str]) -> list[str]:
    """What these jobs' chains take is what their points need, and a little: nothing that a killed session left."""
    failures = []
    storage = lab.storage()
    for directory, chain in lab.chains().items():
        if directory.partition("_")[0] not in jobs:
            continue
        taken_bytes = sum(storage.allocated_bytes(file.name) for file in chain.files)
        needed_bytes = _needed_bytes(lab, directory, chain)
        if taken_bytes > needed_bytes * _MOST_PER_NEEDED:
            failures.append(f"{directory} takes {taken_bytes} bytes although its points need {needed_bytes}")
    return failures


def _needed_bytes(lab: Lab, directory: str, chain: ChainFiles) -> int:
    """Return what a chain takes when each file has its slots, lists and tables, and each extent is there once.

    Generations share nothing, so what points of several reach counts in each.
    """
    storage = lab.storage()
    needed_bytes = 0
    for generation_id in {file.slot.generation_id for file in chain.files}:
        files = chain.generation(generation_id)
        wanted: set[bytes] = set()
        with ChainReader.open(storage, directory) as reader:
            for point in (point for file in files for point in file.contents.points):
                wanted.add(point.configuration)
                for disk in point.disks:
                    pages = walk(disk.root, disk.size_bytes, point.block_size_bytes, reader.block)
                    wanted.update(digest for _, _, digest in pages)
        for file in files:
            needed_bytes += _FILE_BYTES
            with contextlib.closing(storage.open_reader(file.name)) as opened:
                for _, row in numbered_rows(file, opened):
                    if row[:DIGEST_BYTES] in wanted:
                        wanted.remove(row[:DIGEST_BYTES])
                        needed_bytes += extent_bytes(row, file)
    return needed_bytes


def slots(lab: Lab) -> list[str]:
    """The listings say that nothing runs and nothing is used."""
    failures = [
        f"server {server['name']}: {name} is {server[name]}"
        for server in lab.must("server", "list")
        for name in ("proxy_slots_used", "host_budget_used")
        if server[name]
    ]
    return failures + [f"ps shows {row['kind']} {row['pid']}" for row in lab.must("ps") if row["kind"] != "service"]


def _points_in_files(lab: Lab) -> list[Point]:
    return [point for chain in lab.chains().values() for point in chain.points()]


def _by_session(found: Iterable[Point]) -> dict[str, list[Point]]:
    by_session: dict[str, list[Point]] = {}
    for point in found:
        by_session.setdefault(point.session_id, []).append(point)
    return by_session
