"""Retention: what the job's policy says of its chain, done by the target mover."""

import time

from vbrcore.chain.retention import Verdict, decide
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.target import TargetRun
from vbrcore.model.job import Job

_WAITING = frozenset({"clock_not_trusted"})


async def apply_retention(
    context: Context, job: Job, run: TargetRun, warnings: Warnings, *, present: frozenset[str] | None, doubt: str
) -> tuple[Verdict, ...]:
    """Have the target forget what the policy lets go; return all verdicts.

    `present`: ids of the machines of an inventory that was read in full; None: not known, so no machine counts as
    deleted. `doubt` of the clock makes rules that look at it wait.
    """
    verdicts = decide(
        run.points,
        job.retention,
        time.time(),
        present_machines=present,
        pinned=context.catalog.points_being_read(),
        clock_trusted=not doubt,
    )
    if doubt and any(reason.code in _WAITING for verdict in verdicts for reason in verdict.reasons):
        warnings.add(f"retention waits until the clock is confirmed: {doubt}")
    going = tuple(verdict for verdict in verdicts if not verdict.keep)
    for verdict in going:
        why = "; ".join(reason.text for reason in verdict.reasons)
        context.log.info(f"restore point {verdict.point_id} goes: {why}", machine=verdict.machine)
    if going:
        await run.forget(tuple(verdict.point_id for verdict in going))
    context.log.info(f"retention: {len(verdicts) - len(going)} points stay, {len(going)} go")
    return verdicts


def newest_of(run: TargetRun) -> float | None:
    """Return the latest time of a point."""
    return max((point.created for point in run.points), default=None)
