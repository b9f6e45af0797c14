"""`python -m vbrcore hypervisor-check`: has a plugin look at one hypervisor, says what it found, and ends.

Plugin code runs in no process that lives on. Secrets are read from the catalog here, so nobody passes them on.
"""

import argparse
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.connection import managed_host
from vbrcore.model.errors import HypervisorFailed, VbrError
from vbrcore.model.inventory import Hypervisor
from vbrcore.model.serverfacts import Finding, finding_of
from vbrcore.plugins.api import Looks, ManagedHost
from vbrcore.plugins.loader import load, settings_from

LOOK_S = 60
_ALONE_S = 5  # so much later it ends itself, whatever it waits for, where nobody is left who would end it


def main(argv: Sequence[str]) -> int:
    """Write the findings as one JSON array of `Finding` to stdout."""
    parser = argparse.ArgumentParser(prog="vbrcore hypervisor-check", description="A look at one hypervisor.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--hypervisor-id", required=True)
    args = parser.parse_args(argv)
    signal.alarm(LOOK_S + _ALONE_S)
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what a plugin prints is no answer
        answer.write(msgspec.json.encode(_found(Home(args.home), args.hypervisor_id)))
    return 0


def _found(home: Home, hypervisor_id: str) -> tuple[Finding, ...]:
    try:
        catalog = Catalog.open(home.path)
        try:
            row = catalog.hypervisor(hypervisor_id)
            secrets, host = catalog.hypervisor_secrets(row), managed_host(catalog, row.server)
        finally:
            catalog.close()
        return look(row, secrets, host)
    except VbrError as error:
        return (finding_of(error),)


def look(row: Hypervisor, secrets: Mapping[str, str], host: ManagedHost | None) -> tuple[Finding, ...]:
    """Return what the plugin says; of one that cannot look, whether it connects. Raises what it raises."""
    plugin = load(row.plugin)
    settings = settings_from(plugin, row.settings)
    try:
        if isinstance(plugin, Looks):
            return tuple(plugin.look(settings, secrets, host))
        plugin.connect(settings, secrets, host).close()
    except VbrError:
        raise
    except Exception as error:
        raise HypervisorFailed(f"{type(error).__name__}: {error}") from error
    return ()
