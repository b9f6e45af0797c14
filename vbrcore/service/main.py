"""`python -m vbrcore service run`: the backup service of one home, until it is stopped or not needed any more."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from vbrcore.api.home import Home, find_home
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import ChainLocked, ServiceAlreadyRunning, VbrError, info_of
from vbrcore.service import log
from vbrcore.service.configuration import Configuration, read_configuration
from vbrcore.service.defaults import add_defaults
from vbrcore.service.listening import listening
from vbrcore.service.service import IDLE_S, Service
from vbrcore.storage.local import LocalLock

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the service; exit 0 when it was stopped or ended by itself, otherwise the exit code of its error."""
    parser = argparse.ArgumentParser(prog="vbrcore service run", description="The backup service of one home.")
    parser.add_argument("--home", type=Path, help="directory with all state of one deployment (VBRCORE_HOME)")
    parser.add_argument("--on-demand", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=float, default=IDLE_S, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    home = find_home(args.home)
    try:
        home.prepare()
        log.set_up(home.service_log, foreground=not args.on_demand)
        _run(home, on_demand=args.on_demand, idle_s=args.idle)
    except VbrError as error:
        _log.error("the service cannot run: %s", error, extra={"error_info": error.info()})
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - whoever started it reads the reason in the log
        info = info_of(error)
        _log.critical("%s", "".join(traceback.format_exception(error)), extra={"error_info": info})
        return info.exit_code
    return 0


def _run(home: Home, *, on_demand: bool, idle_s: float) -> None:
    os.umask(0o077)
    try:
        lock = LocalLock(home.lock)
    except ChainLocked as error:
        raise ServiceAlreadyRunning(f"a service runs for {home.path} already") from error
    try:
        configuration = read_configuration(home.configuration)
        catalog = Catalog.open(home.path)
        try:
            add_defaults(home, catalog)
            asyncio.run(_serve(home, catalog, configuration, on_demand=on_demand, idle_s=idle_s))
        finally:
            catalog.close()
    finally:
        lock.release()


async def _serve(home: Home, catalog: Catalog, configuration: Configuration, *, on_demand: bool, idle_s: float) -> None:
    from vbrcore.service.app import make_app  # noqa: PLC0415 - a rival is told before all this is loaded
    from vbrcore.service.server import make_server  # noqa: PLC0415

    service = Service(home, catalog, configuration, on_demand=on_demand, idle_s=idle_s)
    allowed = frozenset({0, os.geteuid()}) | configuration.access.users
    server = make_server(make_app(service), allowed)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.ended.set)
    with listening(home, open_to_others=bool(configuration.access.users)) as sock:
        supervising = asyncio.create_task(service.run(), name="service")
        serving = asyncio.create_task(server.serve(sockets=[sock]), name="api")
        _log.info("the service of %s is ready (pid %d)", home.path, os.getpid())
        await service.ended.wait()
        server.should_exit = True
        await serving
        await supervising
    _log.info("the service has ended; sessions that run go on")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
