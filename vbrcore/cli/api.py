"""The service's questions, their types and the errors, imported at first use.

They stand on msgspec, whose import takes longer than all of `--help`. Modules of the command line take them from
here and have `from __future__ import annotations`, so that a signature does not import them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Lazy:
    """A module that is imported when one of its names is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    from vbrcore.api import balance, jobs, operations, servers, types
    from vbrcore.model import errors, job, network, retention
else:
    errors = _Lazy("vbrcore.model.errors")
    job = _Lazy("vbrcore.model.job")
    network = _Lazy("vbrcore.model.network")
    retention = _Lazy("vbrcore.model.retention")
    balance = _Lazy("vbrcore.api.balance")
    jobs = _Lazy("vbrcore.api.jobs")
    servers = _Lazy("vbrcore.api.servers")
    types = _Lazy("vbrcore.api.types")
    operations = _Lazy("vbrcore.api.operations")

__all__ = ["balance", "errors", "job", "jobs", "network", "operations", "retention", "servers", "types"]
