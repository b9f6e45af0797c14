"""One round: change, run, strike, wait, check, run again, check more."""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tests.soak import checks
from tests.soak.lab import Broken, Done, Lab, Operation
from tests.soak.plan import Plan
from tests.soak.victims import Blow, Striker, Watch
from vbrcore.model.point import Point
from vbrcore.model.session import Session

_SAFE_POINTS: Final = 3  # of each machine: no session of a round lets them go
_DETACHED_S: Final = 2.0


class Record(msgspec.Struct):
    """What a round was and what came of it: one line of the report. Times are seconds."""

    seed: str
    plan: Plan
    blows: list[Blow] = []
    sessions: list[tuple[str, str, str, str]] = []  # id, kind, result, code of its error
    recovery_s: float = 0.0
    duration_s: float = 0.0
    files: str = ""
    failures: list[str] = []


class Rounds:
    """The rounds of one lab, one after the other. `seen`: points that are there for certain."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._watch = Watch(lab.home)
        self._seen: dict[str, Point] = {}
        self._deleted: dict[str, Point] = {}
        self._maybe_gone: set[str] = set()
        self._points: dict[str, Point] = {}
        self._wanted: dict[Path, tuple[Operation, dict[str, str]]] = {}
        self._number = 0

    def first(self) -> list[str]:
        """Make points that rounds can restore, verify and delete."""
        for job in ("nightly", "hourly"):
            self._lab.must("job", "run", job)
            self._lab.remember()
        return self._look(settled=True)

    def run(self, record: Record) -> None:
        """Run one round and fill in its record."""
        self._number += 1
        directory = self._lab.root / f"round-{self._number}"
        directory.mkdir()
        record.files = str(directory)
        began = time.monotonic()
        try:
            record.failures += self._run(record, directory, random.Random(record.seed))  # noqa: S311
        except Broken as error:
            record.failures.append(str(error))
        except subprocess.TimeoutExpired as error:
            record.failures.append(f"{error.cmd} did not end within {error.timeout:.0f} s")
        record.duration_s = round(time.monotonic() - began, 2)

    def last(self, rng: random.Random) -> list[str]:
        """Restore every point that there is."""
        return checks.restored(self._lab, self._points.values(), rng)

    def _run(self, record: Record, directory: Path, rng: random.Random) -> list[str]:
        lab, plan = self._lab, record.plan
        lab.mutate()
        lab.have_service(resident=plan.service == "resident")
        before = self._sessions()
        answers = self._strike(record, directory, rng)
        failures = checks.settle(lab, self._watch)
        quiet = time.monotonic()
        lab.remember()
        sessions = [session for session_id, session in self._sessions().items() if session_id not in before]
        record.sessions = [_said(session) for session in sessions]
        if record.blows:
            struck = self._began + min(blow.at_s for blow in record.blows)
            record.recovery_s = round(quiet - struck, 2)
        failures += checks.truth(lab, sessions, record.blows)
        for operation, done in answers:
            failures += checks.answer(operation, done, sessions, record.blows)
        self._note_deleted(sessions)
        failures += self._look(settled=False)
        failures += checks.outputs(lab, self._outcome(answers))
        failures += checks.restored(lab, self._some(rng, 1), rng)
        failures += self._next_session(plan, sessions)
        failures += checks.restored(lab, self._some(rng, 1, newest=True), rng)
        return failures

    def _strike(self, record: Record, directory: Path, rng: random.Random) -> list[tuple[Operation, Done]]:
        """Run the sessions of the plan, hit them, and wait until their commands have ended."""
        logs, files = self._lab.logs(), self._lab.backup_files()
        with self._started(record.plan, directory, rng) as operations:
            self._began = time.monotonic()
            striker = Striker(
                self._watch,
                rng,
                said=lambda text: self._lab.said(text, logs),
                writes=lambda: bool(self._lab.backup_files() - files),
                running=lambda: any(one.running() for one in operations) or bool(self._watch.of_sessions()),
            )
            for hit in record.plan.hits:
                if (blow := striker.strike(hit)) is not None:
                    record.blows.append(blow)
            answers = [(operation, operation.wait()) for operation in operations]
            if record.plan.detached:  # for a while nobody asks, so nobody starts a service that was killed
                give_up = time.monotonic() + rng.uniform(0.0, _DETACHED_S)
                while self._watch.of_sessions() and time.monotonic() < give_up:
                    time.sleep(0.02)
        return answers

    @contextmanager
    def _started(self, plan: Plan, directory: Path, rng: random.Random) -> Iterator[list[Operation]]:
        """Start what runs beside each other. The delays of what runs beside the job count before the first hit."""
        operations: list[Operation] = []
        self._wanted = {}
        self._deleted = {}
        safe = checks.newest(self._points.values(), _SAFE_POINTS)
        free = [point for point in self._points.values() if point.point_id in safe]
        rng.shuffle(free)
        try:
            commands = {
                "": ["run", plan.job, *(["--detach"] if plan.detached else [])],
                "active": ["full", plan.job, "--active"],
                "synthetic": ["full", plan.job, "--synthetic"],
                "compact": ["compact", plan.job],
            }
            operations.append(Operation(self._lab, "job", directory, "job", *commands[plan.shape]))
            for name, delay_s in sorted(plan.beside, key=lambda pair: pair[1]):
                time.sleep(delay_s / len(plan.beside))
                operations += self._beside(name, plan, directory, rng, free)
            yield operations
        finally:
            for operation in operations:
                if operation.running():
                    operation.kill()

    def _beside(
        self, name: str, plan: Plan, directory: Path, rng: random.Random, free: list[Point]
    ) -> Iterator[Operation]:
        lab = self._lab
        if name == "job":
            other = "hourly" if plan.job == "nightly" else "nightly"
            yield Operation(lab, "other", directory, "job", "run", other)
            return
        if name == "retention":
            yield Operation(lab, name, directory, "retention", "apply", plan.job)
            return
        if not free:
            return
        point = free.pop()
        hashes = lab.expected(point)
        if name == "restore":
            disk = rng.choice(point.disks).name
            output = lab.out / f"disk.{rng.choice(('raw', 'qcow2'))}"
            command = ["restore", "disk", point.point_id, disk, "--output", str(output), "--format", output.suffix[1:]]
            operation = Operation(lab, name, directory, *command)
            self._wanted[output] = operation, {disk: hashes[disk]}
        elif name == "machine":
            command = ["restore", "machine", point.point_id, "--hypervisor", "spare", "--name", "copy"]
            operation = Operation(lab, name, directory, *command)
            self._wanted[lab.spare / "copy"] = operation, hashes
        elif name == "verify":
            operation = Operation(lab, name, directory, "verify", point.point_id, "--deep")
        else:
            self._deleted = {point.point_id: point}
            operation = Operation(lab, name, directory, "point", "delete", point.point_id)
        yield operation

    def _note_deleted(self, sessions: list[Session]) -> None:
        """A deletion that ended well is certain; of any other nobody knows before the next session has looked."""
        if not self._deleted:
            return
        results = [session.result for session in sessions if session.kind == "delete"]
        if results and results[0] in checks.SERVED:
            self._seen = {name: point for name, point in self._seen.items() if name not in self._deleted}
        else:
            self._maybe_gone |= self._deleted.keys()

    def _outcome(self, answers: list[tuple[Operation, Done]]) -> dict[Path, tuple[Done, dict[str, str]]]:
        done = dict(answers)
        return {path: (done[operation], hashes) for path, (operation, hashes) in self._wanted.items()}

    def _next_session(self, plan: Plan, before: list[Session]) -> list[str]:
        """Run the jobs again, undisturbed: they succeed, and then the listing says what the files say."""
        lab = self._lab
        if plan.changed_again:
            lab.mutate()
        failures = []
        # What a deletion was to do is known when both jobs have looked at their files.
        jobs = ["nightly", "hourly"] if self._maybe_gone else [plan.job]
        jobs = list(dict.fromkeys(jobs + [one.name for one in before if one.kind == "backup"]))
        for job in jobs:
            done = lab.command("job", "run", job)
            lab.remember()
            if done.code or done.answer["result"] != "success":
                failures.append(f"the next session of {job} does not succeed: {done.answer} {done.errors.strip()}")
        failures += self._look(settled=True) + checks.kept(lab, jobs)
        return failures + checks.repository(lab, jobs) + checks.space(lab, jobs) + checks.slots(lab)

    def _look(self, *, settled: bool) -> list[str]:
        """Compare points with what was there, and note what is there now."""
        failures = checks.points(self._lab, self._seen, self._deleted, self._maybe_gone, settled=settled)
        self._points = {point.point_id: point for chain in self._lab.chains().values() for point in chain.points()}
        self._seen = dict(self._points) if settled else self._seen | self._points
        if settled:
            self._maybe_gone = set()
        return failures

    def _some(self, rng: random.Random, count: int, *, newest: bool = False) -> list[Point]:
        """Choose points that are listed for certain."""
        with self._lab.catalog() as catalog:
            listed = {stored.point.point_id for stored in catalog.points()}
        points = [point for name, point in self._points.items() if name in listed - self._maybe_gone]
        points.sort(key=lambda point: point.created)
        return rng.sample(points[-2:] if newest else points, min(count, len(points)))

    def _sessions(self) -> dict[str, Session]:
        with self._lab.catalog() as catalog:
            return {session.session_id: session for session in catalog.sessions(limit=1000)}


def _said(session: Session) -> tuple[str, str, str, str]:
    return session.session_id, session.kind, session.result, session.error.code if session.error else ""
