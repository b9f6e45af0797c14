"""Upkeep that sessions left for a job's window: found, and started while the window is open."""

from collections.abc import Iterable

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.job import Job
from vbrcore.model.session import Session
from vbrcore.model.window import is_open
from vbrcore.model.zones import zone_named

_LOOKED_AT = 50  # sessions of a job, newest first: restores and verifies may lie between


def jobs_with_due_upkeep(catalog: Catalog, now: float) -> tuple[Job, ...]:
    """Return the jobs whose window is open, and whose last session that writes has left something for it."""
    return tuple(
        job
        for job in catalog.jobs()
        if job.upkeep.begin
        and is_open(job.upkeep, now, zone_named(job.upkeep.zone))
        and _is_left(catalog.sessions(job_id=job.job_id, limit=_LOOKED_AT))
    )


def _is_left(sessions: Iterable[Session]) -> bool:
    """Look at the newest session that does upkeep, or leaves it."""
    newest = next((one for one in sessions if one.kind in {"backup", "copy", "upkeep", "retention"}), None)
    if newest is None or newest.state != "ended":
        return False
    chains = newest.report.get("chains")
    return isinstance(chains, dict) and any(done.get("postponed") for done in chains.values())
