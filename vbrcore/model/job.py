"""What to back up, where to, and when."""

from typing import Literal

import msgspec

from vbrcore.model.ids import file_name_part, short_id
from vbrcore.model.retention import Retention

Compression = Literal["none", "fast", "optimal", "high"]
Priority = Literal["high", "regular", "low"]
BLOCK_SIZES_BYTES = (256 * 1024, 1024 * 1024, 4 * 1024 * 1024)


class Window(msgspec.Struct, frozen=True):
    """A time of each day, "HH:MM" to "HH:MM" (past midnight where the end is earlier). Empty strings: any time."""

    begin: str = ""
    end: str = ""
    zone: str = "UTC"


class Schedule(msgspec.Struct, frozen=True):
    """When a job runs by itself. Times of day are "HH:MM" in the time zone `zone` (an IANA name).

    `daily`: at this time each day; with kind `days` on those that the rule `days` (of `vbrcore.model.days`) names.
    `every`: an interval of `every_s`; `continuous`: again so long after its last run has ended. `cron`: five fields.
    `after`: id of the job whose runs it follows, where they succeed, also with warnings; `after_any`: however they end.

    `window`: scheduled runs begin no machine outside it; `hard_window`: what runs at its end is stopped. `catch_up`: a
    moment that was missed is made up for, once. `retries`: of a scheduled run that failed, each `retry_wait_s` after
    the one before. `since`: when this was decided; seconds since the epoch.
    """

    kind: Literal["none", "daily", "every", "days", "cron", "after", "continuous"] = "none"
    daily: str = ""
    every_s: int = 0
    zone: str = "UTC"
    days: str = ""
    cron: str = ""
    after: str = ""
    after_any: bool = False
    window: Window = Window()
    hard_window: bool = False
    catch_up: bool = True
    retries: int = 3
    retry_wait_s: int = 600
    since: float = 0.0

    @property
    def session_retries(self) -> int:
        """How often a failed scheduled run is run again; a continuous job's next run does that anyhow."""
        return 0 if self.kind in {"none", "continuous"} else self.retries


class Fulls(msgspec.Struct, frozen=True):
    """On which days a job's session begins a generation: rules of `vbrcore.model.days`, in the time zone `zone`.

    `active`: everything is read again. `synthetic`: made of what is stored, without a source. Where both are due it is
    the active one.
    """

    active: str = ""
    synthetic: str = ""
    zone: str = "UTC"


class HealthSchedule(msgspec.Struct, frozen=True):
    """On which days a job's chains are checked after its session (a rule of `vbrcore.model.days`)."""

    days: str = ""
    deep: bool = False
    zone: str = "UTC"


class Job(msgspec.Struct, frozen=True):
    """`machines` are names or shell patterns (`*`, `?`, `[...]`); `exclude` likewise, and wins.

    `directory`: of its chain, where that is not named by the job (chain mapping). `per_machine`: a chain for each
    machine. `upkeep`: when space is given back: at the end of each session, or in this window only.
    `source_repository_id`: a backup copy, of points of that repository instead of a hypervisor's machines.
    `priority`: among jobs that wait for the same slots. `proxies`: names of the servers that may read its disks
    (empty: any). `wait_for_best`: a disk rather waits than is read in a worse transport mode.
    """

    job_id: str
    name: str
    hypervisor_id: str
    repository_id: str
    machines: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    block_size_bytes: int = 1024 * 1024
    compression: Compression = "fast"
    quiesce: bool = False
    machine_retries: int = 3
    schedule: Schedule = Schedule()
    retention: Retention = Retention()
    directory: str = ""
    per_machine: bool = False
    fulls: Fulls = Fulls()
    health: HealthSchedule = HealthSchedule()
    upkeep: Window = Window()
    source_repository_id: str = ""
    priority: Priority = "regular"
    proxies: tuple[str, ...] = ()
    wait_for_best: bool = False

    @property
    def is_copy(self) -> bool:
        return bool(self.source_repository_id)

    @property
    def run_kind(self) -> Literal["backup", "copy"]:
        """The kind of session that a run of the job is."""
        return "copy" if self.is_copy else "backup"

    def chain_directory(self, *, encrypted: bool) -> str:
        """Return the chain's directory in its repository: the job's name for people, its id for certainty.

        In an encrypted repository the name is not told. Chains of single machines lie below it.
        """
        if self.directory:
            return self.directory
        if encrypted:
            return short_id(self.job_id)
        return f"{file_name_part(self.name)}_{short_id(self.job_id)}"
