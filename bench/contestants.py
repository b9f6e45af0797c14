"""What takes part in the comparison: a program that backs a disk up and restores it, phase by phase."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from bench.process import Done, Usage, measure

Phase = Literal["full", "unchanged", "changed", "restore"]
PHASES: Final[tuple[Phase, ...]] = ("full", "unchanged", "changed", "restore")
BACKUP_PHASES: Final[tuple[Phase, ...]] = ("full", "unchanged", "changed")
Setting = Literal["default", "nearest", "limit"]


class Sample(msgspec.Struct, frozen=True):
    """One phase of one contestant in one round. `stored_bytes`: on disk so far, over all its phases of the round."""

    contestant: str
    setting: Setting
    round: int
    phase: Phase
    usage: Usage
    stored_bytes: int = 0
    details: dict[str, int | float | str] = {}


class Contestant(ABC):
    """One program at one setting. Made anew for each round, with an empty directory of its own."""

    name: str
    setting: Setting = "default"
    phases: tuple[Phase, ...] = PHASES

    def __init__(self, directory: Path, disk: Path) -> None:
        self.directory = directory
        self.disk = disk

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Return why it cannot take part, or ""."""

    def prepare(self) -> None:  # noqa: B027 - some need nothing
        """Make what a first backup needs. Not measured."""

    @abstractmethod
    def backup(self, phase: Phase) -> Done:
        """Back the disk up."""

    @abstractmethod
    def restore(self) -> Done:
        """Restore the disk of the newest backup to `restored`."""

    @property
    @abstractmethod
    def restored(self) -> Path:
        """Where `restore` puts the disk, in raw format."""

    @property
    @abstractmethod
    def repository(self) -> Path:
        """The directory or file that holds the backups."""

    def details(self) -> dict[str, int | float | str]:
        """Return what the program said of its last phase."""
        return {}

    def finish(self) -> None:  # noqa: B027 - some leave nothing behind
        """End what still runs. Not measured."""

    def run(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        """Measure a command of this contestant. Raises `CommandFailed`."""
        return measure(command, scratch=self.directory, env={**os.environ, **(env or {})}, cwd=cwd)


def occupied_bytes(path: Path) -> int:
    """Return what a file, or all files below a directory, occupy on disk."""
    if path.is_file():
        return path.stat().st_blocks * 512
    return sum(entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())
