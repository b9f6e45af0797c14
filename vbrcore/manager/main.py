"""`python -m vbrcore job-manager`: the one owner of a running session."""

import argparse
import asyncio
import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from vbrcore.api.client import Client
from vbrcore.api.home import Home
from vbrcore.balancer.gateways import GatewayChoice
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.manager.backup import run_backup
from vbrcore.manager.cleanup import run_cleanup
from vbrcore.manager.context import Context
from vbrcore.manager.copying import run_copy
from vbrcore.manager.crew import Crew
from vbrcore.manager.delete import run_delete
from vbrcore.manager.events import SessionEvents
from vbrcore.manager.gateways import Gateways, explained
from vbrcore.manager.health import run_health
from vbrcore.manager.leases import Leases
from vbrcore.manager.live import LiveReporter
from vbrcore.manager.log import SessionLog, closing_line
from vbrcore.manager.recover import run_restore_disk, run_restore_machine, run_verify
from vbrcore.manager.rekey import run_rekey
from vbrcore.manager.report import Outcome
from vbrcore.manager.stop import StopWatch
from vbrcore.manager.upkeep import run_retention, run_upkeep
from vbrcore.model.errors import VbrError, info_of
from vbrcore.model.inventory import Repository
from vbrcore.model.session import Session
from vbrcore.transport.storages import Storages

_EXIT_FAILED = 3


async def _run_restore(context: Context) -> Outcome:
    if "disk" in context.session.request:
        return await run_restore_disk(context)
    return await run_restore_machine(context)


RUNNERS: dict[str, Callable[[Context], Awaitable[Outcome]]] = {
    "backup": run_backup,
    "copy": run_copy,
    "restore": _run_restore,
    "verify": run_verify,
    "delete": run_delete,
    "health": run_health,
    "rekey": run_rekey,
    "retention": run_retention,
    "upkeep": run_upkeep,
    "cleanup": run_cleanup,
}


def main(argv: Sequence[str]) -> int:
    """Run one session to its end; exit 0 on success and warning, 3 on failure."""
    parser = argparse.ArgumentParser(prog="vbrcore job-manager", description="The owner of one running session.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--job-id", required=True)
    parser.add_argument("--session-id", required=True)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command line's; it asks for a stop by the service
    home = Home(args.home)
    catalog = Catalog.open(home.path)
    try:
        session = catalog.session(args.session_id)
        with SessionLog(home.session_log(session), job_id=session.job_id, session_id=session.session_id) as log:
            events = SessionEvents()
            outcome = asyncio.run(_run(home, catalog, session, log, events))
            _finish(catalog, session, log, outcome)
            events.session_ended(catalog.session(session.session_id))
            events.close()
    finally:
        catalog.close()
    return _EXIT_FAILED if outcome.result == "failed" else 0


async def _run(home: Home, catalog: Catalog, session: Session, log: SessionLog, events: SessionEvents) -> Outcome:
    """Run the session's kind; any exception becomes its result."""
    catalog.begin_session(session.session_id, os.getpid(), process_started(os.getpid()) or 0.0)
    session = catalog.session(session.session_id)
    log.info(f"session of {session.name} begins ({session.kind})")
    events.session_started(session)
    client = Client(home, start=False, timeout_s=5.0)  # a service that hangs must not hold up the session
    stop = StopWatch(catalog, session.session_id)
    live = LiveReporter(client, session.session_id)
    crew = Crew(session, log, catalog, home.path)
    storages = Storages(lambda server, path: crew.start("storage", task_id="", disk=path, server=server), catalog.place)
    gateways = Gateways(catalog, storages, functools.partial(_gateway_chosen, catalog, session, log))
    leases = Leases(catalog, session.session_id, log, stop, live.poke)
    stop.start()
    leases.start()
    live.start(crew)
    try:
        context = Context(home.path, catalog, session, log, leases, crew, live, stop, events, storages, gateways)
        return await RUNNERS[session.kind](context)
    except VbrError as error:
        log.error(f"{error.code}: {error}")
        return Outcome(error=error.info(), failures=1)
    except Exception as error:  # noqa: BLE001 - the session's last line and its result must be written in any case
        log.error("".join(traceback.format_exception(error)))
        return Outcome(error=info_of(error), failures=1)
    finally:
        await crew.close()
        await live.close()
        await stop.close()
        leases.close()


def _gateway_chosen(
    catalog: Catalog, session: Session, log: SessionLog, repository: Repository, choice: GatewayChoice
) -> None:
    """Have it stand in the session's log, and in its report from now on."""
    log.info(f"{repository.path}: {explained(choice)}")
    report = catalog.session(session.session_id).report
    told = {"repository": repository.name, **msgspec.structs.asdict(choice)}
    chosen = [*report.get("gateways", ()), msgspec.to_builtins(told)]  # type: ignore[misc]
    catalog.update_session(session.session_id, report=report | {"gateways": chosen})


def _finish(catalog: Catalog, session: Session, log: SessionLog, outcome: Outcome) -> None:
    totals = outcome.totals
    log.info(
        f"{outcome.result}: read {totals.read_bytes}, transferred {totals.transferred_bytes},"
        f" stored {totals.stored_bytes} bytes, {len(outcome.warnings)} warnings, {outcome.failures} failures"
    )
    failed = outcome.result == "failed"
    log.write("error" if failed else "info", closing_line(failed=failed, name=session.name, job_id=session.job_id))
    catalog.finish_session(
        session.session_id,
        result=outcome.result,
        ended=time.time(),
        totals=totals,
        warnings=outcome.warnings,
        error=outcome.error,
        report=catalog.session(session.session_id).report | outcome.report,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
