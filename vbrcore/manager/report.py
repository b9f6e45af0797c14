"""How a session ended."""

import msgspec

from vbrcore.model.errors import ErrorInfo
from vbrcore.model.session import Result, Totals


class Outcome(msgspec.Struct, frozen=True):
    """`failures` counts machines (or disks); `error` is the first of them, or what ended the whole session.

    `report`: plain data, kept with the session.
    """

    totals: Totals = Totals()
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    failures: int = 0
    report: dict[str, object] = {}

    @property
    def result(self) -> Result:
        if self.error is not None:
            return "failed"
        return "warning" if self.warnings else "success"
