"""vbrcore, as a user drives it: `python -m vbrcore` on a deployment of its own."""

import json
import os
import sys
from pathlib import Path

import msgspec

from bench.contestants import Contestant, Phase
from bench.harness import MIB
from bench.process import CommandFailed, Done, run

JOB = "bench"
MACHINE = "server"


class JobResult(msgspec.Struct, frozen=True):
    """The last line of `job run --json`."""

    session_id: str
    job_id: str
    result: str
    read_bytes: int
    transferred_bytes: int
    stored_bytes: int
    duration_s: float


class Deployment:
    """A home of its own, with commands that are not measured. `close` ends its service."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VBRCORE_HOME": str(self.home)}

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "vbrcore", *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command to its end; return its standard output. Raises `CommandFailed`."""
        return run(self.command(*arguments), env=self.environment)

    def images_job(self, machines: Path, repository: Path, *options: str) -> None:
        """Make a job that backs up all machines in a directory of images."""
        self.run("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={machines}")
        self.job("lab", "*", repository, *options)

    def job(self, hypervisor: str, machine: str, repository: Path, *options: str) -> None:
        """Make a job with a repository of its own."""
        self.run("repository", "add", "main", "--path", str(repository), "--reserve", "256M")
        names = ("--hypervisor", hypervisor, "--machine", machine, "--repository", "main")
        self.run("job", "create", JOB, *names, *options)

    def newest_point(self) -> tuple[str, str]:
        """Return the newest point's id and the name of its first disk."""
        points = json.loads(self.run("point", "list", "--job", JOB, "--json"))
        return points[-1]["point_id"], points[-1]["disks"][0]["name"]

    def close(self) -> None:
        """Stop the service, with what it runs."""
        self.run("service", "stop")


def warm_up(directory: Path) -> None:
    """Run one small session, so that whoever is measured finds its modules compiled."""
    (directory / "machines" / MACHINE).mkdir(parents=True)
    (directory / "machines" / MACHINE / "disk.raw").write_bytes(os.urandom(4 * MIB))
    deployment = Deployment(directory / "home")
    try:
        deployment.images_job(directory / "machines", directory / "repository")
        deployment.run("job", "run", JOB, "--json")
        point, disk = deployment.newest_point()
        deployment.run("restore", "disk", point, disk, "--output", str(directory / "restored.raw"))
    finally:
        deployment.close()


def job_result(output: str) -> JobResult:
    """Return what `job run --json` said in its last line. Raises `CommandFailed` where it did not succeed."""
    result = msgspec.json.decode(output.strip().splitlines()[-1], type=JobResult)
    if result.result != "success":
        raise CommandFailed(f"the session ended with {result.result}: {output}")
    return result


class Vbrcore(Contestant):
    """The default job: blocks of 1 MiB, compression fast (zstd level 1)."""

    name = "vbrcore"

    def __init__(self, directory: Path, disk: Path) -> None:
        super().__init__(directory, disk)
        self.deployment = Deployment(directory / "home")
        self._details: dict[str, int | float | str] = {}
        self._newest: tuple[str, str] | None = None

    @classmethod
    def missing(cls) -> str:
        return ""

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def restored(self) -> Path:
        return self.directory / "restored.raw"

    def prepare(self) -> None:
        self.deployment.images_job(self.disk.parent.parent, self.repository)

    def backup(self, phase: Phase) -> Done:
        done = self.run(self.deployment.command("job", "run", JOB, "--json"), env=self.deployment.environment)
        self._details = msgspec.to_builtins(job_result(done.output))
        if phase == "changed":
            self._newest = self.deployment.newest_point()
        return done

    def restore(self) -> Done:
        point, disk = self._newest or self.deployment.newest_point()
        self._details = {}
        arguments = ("restore", "disk", point, disk, "--output", str(self.restored), "--format", "raw")
        return self.run(self.deployment.command(*arguments), env=self.deployment.environment)

    def details(self) -> dict[str, int | float | str]:
        return self._details

    def finish(self) -> None:
        self.deployment.close()
