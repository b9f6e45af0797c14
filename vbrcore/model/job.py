"""What to back up, where to, and when."""

from typing import Literal

import msgspec

from vbrcore.model.retention import Retention

Compression = Literal["none", "fast", "optimal", "high"]
BLOCK_SIZES_BYTES = (256 * 1024, 1024 * 1024, 4 * 1024 * 1024)


class Schedule(msgspec.Struct, frozen=True):
    """When a job runs. `daily` is "HH:MM" in the time zone `zone` (an IANA name); `every_s` is an interval."""

    kind: Literal["none", "daily", "every"] = "none"
    daily: str = ""
    every_s: int = 0
    zone: str = "UTC"


class Job(msgspec.Struct, frozen=True):
    """`machines` are names or shell patterns (`*`, `?`, `[...]`); `exclude` likewise, and wins."""

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
