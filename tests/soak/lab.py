"""A deployment to be hurt: its home, machines whose disks change, a repository, and what every disk held when."""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tests.conftest import Vbr, processes_of, stop_processes_of
from tests.line.conftest import MIB, disk_bytes
from vbrcore.api import operations, types
from vbrcore.api.client import Client
from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import ChainFiles, read_files
from vbrcore.chain.listing import list_chains
from vbrcore.model.errors import VbrError
from vbrcore.model.point import Point
from vbrcore.model.session import Session
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import open_repository

JOBS: Final = {"nightly": ("*",), "hourly": ("db",)}
KEPT_POINTS: Final = 5  # of each machine, by each job
COMMAND_TIMEOUT_S: Final = 240.0


class Disk(msgspec.Struct, frozen=True):
    """A virtual disk; its bytes are also in a raw twin, because a qcow2 file cannot be compared with a restored one."""

    machine: str
    name: str
    size_mib: int
    data_mib: int

    @property
    def key(self) -> str:
        return f"{self.machine}/{self.name}"


DISKS: Final = (Disk("web", "system.raw", 32, 24), Disk("web", "data.qcow2", 8, 6), Disk("db", "disk.qcow2", 16, 12))


class Done(msgspec.Struct, frozen=True):
    """A command that has ended. `answer` is the JSON it printed, or None."""

    code: int
    answer: Any
    errors: str


class Operation:
    """A command that runs beside others. What it says goes to files, so that it can be read after a failure."""

    def __init__(self, lab: "Lab", name: str, directory: Path, *args: str | Path) -> None:
        self.name = name
        self.args = tuple(map(str, args))
        self._stdout, self._stderr = directory / f"{name}.out", directory / f"{name}.err"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = lab.vbr.start(*args, "--json", stdout=stdout, stderr=stderr)

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> Done:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        code = self._process.wait(COMMAND_TIMEOUT_S)
        return Done(code, _answer(self._stdout.read_text()), self._stderr.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Lab:
    """Everything lies below `root`, which is short enough for sockets. `facts`: session → disk key → SHA-256."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.home = root / "home"
        self.machines = root / "lab"
        self.repository = root / "repository"
        self.spare = root / "spare"  # where machines are restored to
        self.out = root / "out"
        self.facts: dict[str, dict[str, str]] = {}
        self._twins = root / "twins"
        self._rng = rng
        self._hashes: dict[str, str] = {}
        self._service: subprocess.Popen[str] | None = None
        self._service_output: IO[bytes] | None = None
        self.temporary = root / "tmp"
        for directory in (self.machines, self.spare, self.out, self._twins, self.temporary):
            directory.mkdir(parents=True)
        self.vbr = Vbr(self.home)
        self.vbr.environment["TMPDIR"] = str(self.temporary)

    # --- set-up -----------------------------------------------------------------------------------

    def set_up(self) -> None:
        for disk in DISKS:
            (self.machines / disk.machine).mkdir(exist_ok=True)
            with self._twin(disk).open("wb") as file:
                file.write(disk_bytes(self._rng.randrange(1 << 30), disk.data_mib * MIB))
                file.truncate(disk.size_mib * MIB)
            self._publish(disk)
        self.must("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={self.machines}")
        self.must("hypervisor", "add", "spare", "--plugin", "images", "--set", f"path={self.spare}")
        self.must("repository", "add", "main", "--path", self.repository, "--reserve", "1M")
        for name, patterns in JOBS.items():
            self.must(
                *("job", "create", name, "--hypervisor", "lab", "--repository", "main", "--compression", "high"),
                *("--keep", str(KEPT_POINTS)),
                *(word for pattern in patterns for word in ("--machine", pattern)),
            )

    def mutate(self) -> None:
        """Overwrite parts of some disks, and the rest of the time leave them as they are."""
        for disk in DISKS:
            if self._rng.random() < 0.25:
                continue
            with self._twin(disk).open("r+b") as file:
                for _ in range(self._rng.randint(1, 5)):
                    length = self._rng.randint(4096, disk.size_mib * MIB // 4)
                    file.seek(self._rng.randrange(disk.size_mib * MIB - length) // 512 * 512)
                    zeros = self._rng.random() < 0.15
                    file.write(bytes(length) if zeros else disk_bytes(self._rng.randrange(1 << 30), length))
            self._publish(disk)

    def expected(self, point: Point) -> dict[str, str]:
        """Return the hashes of a point's disks, by disk name. Raises KeyError for a point of an unknown session."""
        facts = self.facts[point.session_id]
        return {disk.name: facts[f"{point.machine}/{disk.name}"] for disk in point.disks}

    def remember(self) -> None:
        """Note for all sessions that are not known yet what the disks hold: nothing changes them while sessions run."""
        with self.catalog() as catalog:
            for session in catalog.sessions(limit=100):
                self.facts.setdefault(session.session_id, dict(self._hashes))

    def _twin(self, disk: Disk) -> Path:
        return self._twins / f"{disk.machine}-{disk.name}.raw"

    def _publish(self, disk: Disk) -> None:
        """Give the machine a disk with the twin's bytes."""
        twin = self._twin(disk)
        staged = self._twins / "staged"
        if disk.name.endswith(".raw"):
            subprocess.run(["cp", "--sparse=always", twin, staged], check=True)
        else:
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", twin, staged], check=True)
        staged.rename(self.machines / disk.machine / disk.name)
        self._hashes[disk.key] = sha256(twin)

    # --- commands ---------------------------------------------------------------------------------

    def command(self, *args: str | Path) -> Done:
        done = self.vbr(*args, "--json", exit_code=None, timeout_s=COMMAND_TIMEOUT_S)
        return Done(done.returncode, _answer(done.stdout), done.stderr)

    def must(self, *args: str | Path) -> Any:
        """Run a command that nobody disturbs, and return its answer."""
        done = self.command(*args)
        if done.code:
            raise Broken(f"vbrcore {' '.join(map(str, args))}: exit code {done.code}: {done.errors.strip()}")
        return done.answer

    def restored(self, point: Point, disk: str, image_format: str) -> str:
        """Restore a disk of a point; return its hash, or why it cannot be restored."""
        output = self.out / f"check-{point.point_id}.{image_format}"
        done = self.command("restore", "disk", point.point_id, disk, "--output", output, "--format", image_format)
        if done.code:
            return f"exit code {done.code}: {done.errors.strip()}"
        try:
            return sha256_of_image(output)
        finally:
            output.unlink()

    # --- looking in -------------------------------------------------------------------------------

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        catalog = Catalog.open(self.home)
        try:
            yield catalog
        finally:
            catalog.close()

    def storage(self) -> Storage:
        with self.catalog() as catalog:
            repository = catalog.repository_by_name("main")
        return open_repository(self.repository, repository.repository_id)

    def chains(self) -> dict[str, ChainFiles]:
        """Return what the files of each chain say, by directory."""
        storage = self.storage()
        return {directory: read_files(storage, directory) for directory in list_chains(storage)}

    def log_of(self, session: Session) -> list[str]:
        path = Home(self.home).session_log(session)
        return path.read_text().splitlines() if path.exists() else []

    def said(self, text: str, since: frozenset[Path]) -> bool:
        """Tell whether a session log that is not in `since` has a line with `text`."""
        return any(text in path.read_text(errors="replace") for path in self.logs() - since)

    def backup_files(self) -> frozenset[Path]:
        return frozenset(self.repository.glob("*/*.vbf"))

    def logs(self) -> frozenset[Path]:
        return frozenset((self.home / "log").glob("*/*.jsonl"))

    # --- service ----------------------------------------------------------------------------------

    def have_service(self, *, resident: bool) -> None:
        """Have a service that stays, or none at all: then the next command starts one that ends by itself."""
        if resident and self._service is not None and self._service.poll() is None:
            return
        self._end_service()
        if resident:
            self._service_output = (self.root / "service.out").open("ab")
            self._service = self.vbr.start("service", "run", stdout=self._service_output, stderr=subprocess.STDOUT)
            while self._service.poll() is None:
                try:
                    with Client(Home(self.home), start=False) as client:
                        client.call(operations.SERVICE_SHOW, types.Nothing())
                except VbrError:
                    os.sched_yield()
                else:
                    return
            raise Broken(f"the service ended with {self._service.returncode}; see {self.root / 'service.out'}")

    def close(self) -> dict[int, str]:
        """Stop everything; return the processes that did not end by themselves."""
        left = stop_processes_of(self.home)
        self._reap()
        return left

    def _end_service(self) -> None:
        if processes_of(self.home):
            self.command("service", "stop")
        self._reap()

    def _reap(self) -> None:
        if self._service is not None:
            self._service.wait()
            self._service = None
        if self._service_output is not None:
            self._service_output.close()
            self._service_output = None


class Broken(Exception):
    """An invariant does not hold, and the round cannot go on."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_image(path: Path) -> str:
    """Return the hash of the bytes of a disk in an image file."""
    if path.suffix == ".raw":
        return sha256(path)
    raw = path.with_suffix(".converted")
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    try:
        return sha256(raw)
    finally:
        raw.unlink()


def _answer(text: str) -> Any:
    text = text.strip()
    try:
        return json.loads(text.splitlines()[-1]) if text else None
    except json.JSONDecodeError:
        return None
