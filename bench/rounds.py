"""One run of the comparison: the disk, everybody who takes part, and what was measured of them."""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from bench import blocks, corpus, domain, limits, peers
from bench.contestants import Contestant, Phase, Sample, occupied_bytes
from bench.harness import GIB, rotated
from bench.ours import Vbrcore, warm_up
from bench.process import CommandFailed, Done, Usage, measure, run, sync
from bench.report import LIMIT, PLAIN_READ

CHANGE_SHARE: Final = 0.02
LIMIT_WORK: Final[dict[Phase, str]] = {"full": "compress", "unchanged": "hash", "restore": "restore"}
DOMAIN_GROUP: Final = "virtnbdbackup"


class Skipped(msgspec.Struct, frozen=True):
    """Somebody who could not take part, or failed half-way."""

    contestant: str
    reason: str
    failed: bool = False


class DiskFacts(msgspec.Struct, frozen=True):
    """What was backed up. `unique_bytes`: one of each block that is not zero. `changed_bytes`: before phase changed."""

    size_bytes: int
    allocated_bytes: int
    unique_bytes: int
    plain_bytes: int
    compressed_bytes: int
    files: int
    changed_bytes: int


class Bench:
    """The disk, and everybody who takes part: those for whose names `wanted` is true."""

    def __init__(self, workdir: Path, size_bytes: int, wanted: Callable[[str], bool]) -> None:
        self.workdir = workdir
        self.wanted = wanted
        self.samples: list[Sample] = []
        self.skipped: list[Skipped] = []
        # A directory of machines as the images plugin wants it: machines/server/disk.raw.
        self.disk = workdir / f"disk-{size_bytes}" / "machines" / "server" / "disk.raw"
        say(f"making a disk of {size_bytes / GIB:.2f} GiB, unless it is there")
        self.disk.parent.mkdir(parents=True, exist_ok=True)
        kept = workdir / f"disk-{size_bytes}" / "corpus.raw"
        self.corpus = corpus.build(kept, size_bytes)
        # Always anew: a run that was interrupted may have left a changed one.
        run(["cp", "--sparse=always", str(kept), str(self.disk)])
        self.survey_path = workdir / f"disk-{size_bytes}" / "survey"
        self.survey = blocks.survey(self.disk, limits.BLOCK_BYTES)
        self.survey_path.write_bytes(msgspec.msgpack.encode(self.survey))
        self.change = corpus.Change(self.disk, CHANGE_SHARE)
        with scratch(workdir / "scratch") as directory, contextlib.suppress(CommandFailed):  # it fails again, measured
            warm_up(directory)

    def round(self, number: int) -> None:
        """Run every contestant once, beginning with another one each time."""
        kinds: tuple[type[Contestant], ...] = (Vbrcore, *peers.PEERS)
        todo = [
            functools.partial(self._contestant, kind, number, self._image_phase)
            for kind in kinds
            if (self.wanted(kind.name) or self.wanted(f"{kind.name} {kind.setting}")) and not self._is_missing(kind)
        ]
        if self.wanted(LIMIT):
            todo.append(functools.partial(self._limits, number))
        for work in rotated(todo, number):
            work()

    def domain_round(self) -> None:
        """Back up a running domain, once each."""
        reasons = {kind.missing() for kind in domain.CONTESTANTS} - {""}
        if reasons:
            self._skip(DOMAIN_GROUP, "; ".join(sorted(reasons)))
            return
        for kind in domain.CONTESTANTS:
            guest = domain.Domain(self.workdir / "domain", self.disk)
            try:
                guest.start()
                self._contestant(kind, 0, functools.partial(self._domain_phase, guest))
            except CommandFailed as error:
                self._skip(f"{kind.name} {kind.setting}", str(error), failed=True)
            finally:
                guest.remove()

    def facts(self) -> DiskFacts:
        return DiskFacts(
            size_bytes=self.corpus.size_bytes,
            allocated_bytes=self.corpus.allocated_bytes,
            unique_bytes=len(self.survey.unique) * self.survey.block_bytes,
            plain_bytes=self.corpus.plain_bytes,
            compressed_bytes=self.corpus.compressed_bytes,
            files=self.corpus.files,
            changed_bytes=self.change.changed_bytes,
        )

    def _is_missing(self, kind: type[Contestant]) -> bool:
        reason = kind.missing()
        if reason:
            self._skip(kind.name, reason)
        return bool(reason)

    def _skip(self, contestant: str, reason: str, *, failed: bool = False) -> None:
        skipped = Skipped(contestant, reason, failed)
        if skipped not in self.skipped:
            self.skipped.append(skipped)
            say(f"{'failed' if failed else 'left out'}: {contestant}: {reason}")

    def _limits(self, number: int) -> None:
        self._limit(PLAIN_READ, "full", "read", number)
        for phase, work in LIMIT_WORK.items():
            self._limit(LIMIT, phase, work, number)

    def _limit(self, name: str, phase: Phase, work: str, number: int) -> None:
        with scratch(self.workdir / "scratch") as directory:
            command = [sys.executable, str(Path(limits.__file__)), str(self.disk), "--survey", str(self.survey_path)]
            # What a restore reads is kept from round to round.
            done = measure([*command, "--work", work, "--scratch", str(self.survey_path.parent)], scratch=directory)
        found = msgspec.json.decode(done.output, type=limits.Limit)
        usage = Usage(found.wall_s, found.durable_s, found.cpu_s, done.usage.peak_memory_bytes)
        self._add(Sample(name, "limit", number, phase, usage, found.stored_bytes))

    def _contestant(self, kind: type[Contestant], number: int, run_phase: Callable[[Contestant, Phase], Done]) -> None:
        """Run all phases of one contestant in a directory of its own; one that fails does not keep the others."""
        with scratch(self.workdir / "scratch") as directory:
            contestant = kind(directory, self.disk)
            try:
                contestant.prepare()
                for phase in contestant.phases:
                    sync(directory)
                    done = run_phase(contestant, phase)
                    stored = occupied_bytes(contestant.repository) if phase != "restore" else 0
                    details = contestant.details()
                    self._add(Sample(kind.name, kind.setting, number, phase, done.usage, stored, details))
                contestant.finish()
            except CommandFailed as error:
                self._skip(f"{kind.name} {kind.setting}", str(error), failed=True)
                with contextlib.suppress(CommandFailed):
                    contestant.finish()
            finally:
                self.change.revert()

    def _image_phase(self, contestant: Contestant, phase: Phase) -> Done:
        if phase == "changed":
            self.change.apply()
        os.utime(self.disk)
        if phase != "restore":
            return contestant.backup(phase)
        done = contestant.restore()
        run(["cmp", str(self.disk), str(contestant.restored)])
        return done

    def _domain_phase(self, guest: domain.Domain, contestant: Contestant, phase: Phase) -> Done:
        if phase == "changed":
            guest.apply(self.change)
        if phase != "restore":
            return contestant.backup(phase)
        done = contestant.restore()
        self.change.apply()
        run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(contestant.restored), str(self.disk)])
        return done

    def _add(self, sample: Sample) -> None:
        self.samples.append(sample)
        who = f"round {sample.round + 1}: {sample.contestant} {sample.setting} {sample.phase}"
        say(f"{who}: {sample.usage.wall_s:.2f} s, {sample.usage.cpu_s:.2f} s of CPU")


def say(text: str) -> None:
    """Tell how far it is; figures go to standard output."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Make a directory for one contestant and remove it with all that it holds."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
