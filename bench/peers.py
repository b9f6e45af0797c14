"""The peers: restic, borg and qemu-img, each at its default and at the setting nearest to ours.

Encryption is off where a peer can do without (borg); restic always encrypts. Every backup reads the whole disk, because
a running machine's disk never keeps its modification time: the file is touched before each phase.
"""

import shutil
from pathlib import Path
from typing import Final

from bench.contestants import Contestant, Phase
from bench.process import Done, run

CHECKOUT: Final = Path(__file__).resolve().parent.parent
BENCH_ENVIRONMENT: Final = CHECKOUT / ".venv-bench"


class Restic(Contestant):
    """Content-defined chunks, zstd at its default level. It has no levels below, and no chunks of a fixed size."""

    name = "restic"
    options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which("restic") else "restic is not installed: script/bench"

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def restored(self) -> Path:
        return self.directory / "restored" / self.disk.relative_to("/")

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_CACHE_DIR": str(self.directory / "cache"),
        }

    def prepare(self) -> None:
        self.run(["restic", "-q", "init"], env=self._environment)

    def backup(self, phase: Phase) -> Done:
        return self.run(
            ["restic", "-q", *self.options, "backup", "--tag", phase, str(self.disk)], env=self._environment
        )

    def restore(self) -> Done:
        target = str(self.directory / "restored")
        command = ["restic", "-q", *self.options, "restore", "latest", "--target", target]
        return self.run(command, env=self._environment)


class ResticNearest(Restic):
    """As few files as it can make: ours writes one."""

    setting = "nearest"
    options = ("--pack-size", "128")


class Borg(Contestant):
    """Content-defined chunks, lz4."""

    name = "borg"
    create_options: tuple[str, ...] = ()
    extract_options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str:
        return "" if cls._program().exists() else "borg is not installed: script/bench"

    @staticmethod
    def _program() -> Path:
        return BENCH_ENVIRONMENT / "bin/borg"

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def restored(self) -> Path:
        return self.directory / "restored" / self.disk.relative_to("/")

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "BORG_BASE_DIR": str(self.directory / "base"),
            "BORG_REPO": str(self.repository),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def prepare(self) -> None:
        self.run([str(self._program()), "init", "--encryption", "none"], env=self._environment)

    def backup(self, phase: Phase) -> Done:
        command = [str(self._program()), "create", *self.create_options, f"::{phase}", str(self.disk)]
        return self.run(command, env=self._environment)

    def restore(self) -> Done:
        target = self.directory / "restored"
        target.mkdir()
        command = [str(self._program()), "extract", *self.extract_options, "::changed"]
        return self.run(command, env=self._environment, cwd=target)


class BorgNearest(Borg):
    """Blocks of 1 MiB, zstd level 1, holes left out."""

    setting = "nearest"
    create_options = ("--chunker-params", "fixed,1048576", "--compression", "zstd,1", "--sparse")
    extract_options = ("--sparse",)


class QemuImg(Contestant):
    """A compressed qcow2: no dedup, no second backup."""

    name = "qemu-img"
    phases: tuple[Phase, ...] = ("full", "restore")
    options: tuple[str, ...] = ()
    format_options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which("qemu-img") else "qemu-img is not installed: script/setup"

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def restored(self) -> Path:
        return self.directory / "restored.raw"

    def prepare(self) -> None:
        self.repository.mkdir()

    def backup(self, phase: Phase) -> Done:
        command = ["qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2", *self.format_options, *self.options]
        return self.run([*command, str(self.disk), str(self.repository / phase)])

    def restore(self) -> Done:
        command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", *self.options]
        return self.run([*command, str(self.repository / "full"), str(self.restored)])


class QemuImgNearest(QemuImg):
    """zstd, two workers, writing out of order."""

    setting = "nearest"
    options = ("-m", "2", "-W")
    format_options = ("-o", "compression_type=zstd")


PEERS: Final = (Restic, ResticNearest, Borg, BorgNearest, QemuImg, QemuImgNearest)


def versions() -> dict[str, str]:
    """Return the version of each peer that is installed."""
    found = {}
    if not Restic.missing():
        found["restic"] = run(["restic", "version"]).split()[1]
    if not Borg.missing():
        found["borg"] = run([str(BENCH_ENVIRONMENT / "bin/borg"), "--version"]).split()[1]
    if not QemuImg.missing():
        found["qemu-img"] = run(["qemu-img", "--version"]).split()[2]
    return found
