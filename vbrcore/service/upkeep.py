"""Upkeep that sessions left for a job's window: found, and started while the window is open."""

from typing import Final

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.job import Job
from vbrcore.model.session import Session, SessionKind
from vbrcore.model.window import is_open
from vbrcore.model.zones import zone_named

_KINDS: Final[tuple[SessionKind, ...]] = ("backup", "copy", "upkeep", "retention")  # that do it, or leave it


def jobs_with_due_upkeep(catalog: Catalog, now: float) -> tuple[Job, ...]:
    """Return the jobs whose window is open, and whose last session that writes has left something for it."""
    return tuple(
        job
        for job in catalog.jobs()
        if job.upkeep.begin
        and is_open(job.upkeep, now, zone_named(job.upkeep.zone))
        and _is_left(catalog.last_session(job.job_id, _KINDS))
    )


def _is_left(newest: Session | None) -> bool:
    if newest is None or newest.state != "ended":
        return False
    chains = newest.report.get("upkeep")
    return isinstance(chains, dict) and any(done.get("postponed") for done in chains.values())
