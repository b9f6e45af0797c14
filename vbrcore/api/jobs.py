"""How a job is run now, and what of it is changed. JSON keys are these field names; they stay."""

import msgspec

from vbrcore.api.types import ByName
from vbrcore.model.job import Priority


class JobRun(ByName, frozen=True):
    """`quick`: somebody waits for it, so it comes before all other backups."""

    quick: bool = False


class JobEdit(msgspec.Struct, frozen=True):
    """What is None stays as it is. `proxies`: names of the servers that may read its disks (empty: any)."""

    name: str
    priority: Priority | None = None
    proxies: tuple[str, ...] | None = None
    wait_for_best: bool | None = None
