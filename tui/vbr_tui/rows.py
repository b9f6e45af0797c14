"""From the service's answers to the rows of the first screen. Pure: the same picture gives the same rows."""

from collections.abc import Iterator

from vbr_tui.store import Picture
from vbr_tui.widgets.live_table import Cell, Column, Row
from vbrcore.api.types import ProcessView, SessionView, TaskView
from vbrcore.cli.output import duration, moment, size
from vbrcore.cli.progress import task_name
from vbrcore.cli.ps import tree

SESSION_COLUMNS = (
    Column("STATE", 11),
    Column("SESSION / DISK"),
    Column("PROGRESS", 17),
    Column("READ", 10, from_width=110, right=True),
    Column("SENT", 10, from_width=110, right=True),
    Column("RATE", 12, right=True),
    Column("LEFT", 9, from_width=96, right=True),
    Column("BUSIEST", 13),
)
WAIT_COLUMNS = (
    Column("SESSION", 14),
    Column("DISK"),
    Column("REASON", 27),
    Column("WHICH MEANS", weight=2, from_width=110),
)
PROCESS_COLUMNS = (
    Column("PROCESS", 24),
    Column("JOB", 12),
    Column("DISK"),
    Column("SERVER", 9, from_width=130),
    Column("PID", 8, right=True),
    Column("CPU", 6, right=True),
    Column("MEMORY", 9, right=True),
    Column("LOG", weight=2, from_width=110, keep_end=True),
)

# Glyph, word and tone: a state is never told by its colour alone.
STATES = {
    "starting": Cell("◌ starting", "dim"),
    "waiting": Cell("○ waiting", "warn"),
    "pending": Cell("○ waiting", "warn"),
    "assigned": Cell("◌ starting", "dim"),
    "running": Cell("● running", "good"),
    "stopping": Cell("◐ stopping", "warn"),
    "done": Cell("✓ done", "dim"),
    "success": Cell("✓ success", "dim"),
    "warning": Cell("▲ warning", "warn"),
    "failed": Cell("✗ failed", "bad"),
    "skipped": Cell("- skipped", "dim"),
}

REASONS = {
    "chain_in_use": "another session writes to the same chain",
    "chain_locked": "an earlier writer of the chain is not gone yet",
    "machine_in_use": "another session has the machine",
    "datastore_snapshot_limit": "its datastore has as many open snapshots as allowed",
    "no_free_proxy_slot": "all slots of the proxies that can read it are taken",
    "no_free_repository_slot": "all slots of the repository are taken",
    "host_budget_used": "a server it needs takes part in as many tasks as allowed",
    "no_proxy": "no proxy can read it",
    "repository_below_reserve": "the repository has less free space than its reserve",
    "reserved_for": "the slots it needs are kept for a task that waited longer",
}

BAR_WIDTH = 10


def session_rows(picture: Picture) -> list[Row]:
    """Return living sessions, each with its disks, then those that ended lately."""
    rows = []
    for session in picture.sessions:
        rows.append(_session_row(session))
        rows += [_task_row(session, task) for task in sorted(session.tasks, key=_task_order)]
    living = {session.session_id for session in picture.sessions}
    return rows + [_ended_row(session) for session in picture.recent if session.session_id not in living]


def wait_rows(picture: Picture) -> list[Row]:
    """Return sessions and disks that wait, with the reason."""
    rows = []
    for session in picture.sessions:
        if session.state == "waiting" or (session.reason and session.state in {"starting", "stopping"}):
            rows.append(_wait_row(session, session.session_id, "-", session.reason, _session_details(session)))
        for task in session.tasks:
            if task.state == "pending":
                key = f"{session.session_id}/{task.task_id}"
                rows.append(_wait_row(session, key, task_name(task), task.reason, _task_details(session, task)))
    return rows


def process_rows(picture: Picture) -> list[Row]:
    """Return the process tree, each process below the one that started it."""
    placed = list(tree(picture.processes))
    return [
        Row(
            f"{view.server}/{view.pid}",
            (
                Cell(guide + _process_name(view), "strong" if depth == 0 else ""),
                Cell(view.job_name or "-"),
                Cell(view.disk or "-"),
                Cell(view.server or "-"),
                Cell(str(view.pid)),
                Cell(f"{view.cpu_percent:.0f} %"),
                Cell(size(view.memory_bytes)),
                Cell(view.log_path or "-", "dim"),
            ),
            _process_details(view),
        )
        for (depth, view), guide in zip(placed, _guides([depth for depth, _ in placed]), strict=True)
    ]


def next_command(picture: Picture) -> list[str]:
    """Return what to say while no session runs: the command that leads on from here."""
    program = "python -m vbrcore"
    if not picture.hypervisors:
        return [
            "No hypervisor is known yet. Add one:",
            f"  {program} hypervisor add lab --plugin images --set path=DIRECTORY",
        ]
    if not picture.repositories:
        return ["There is no place for backups yet. Add one:", f"  {program} repository add main --path DIRECTORY"]
    if not picture.jobs:
        hypervisor, repository = picture.hypervisors[0].name, picture.repositories[0].name
        return [
            "No job is defined yet. Create one:",
            f"  {program} job create nightly --hypervisor {hypervisor} --machine '*' --repository {repository}",
        ]
    lines = ["Nothing runs. Start a job:", f"  {program} job run {picture.jobs[0].name}"]
    for time, name in sorted((job.next_run, job.name) for job in picture.jobs if job.next_run)[:1]:
        lines.append(f"Next by schedule: {name} at {moment(time)}")
    return lines


def _task_order(task: TaskView) -> tuple[int, str, str]:
    order = {"running": 0, "assigned": 1, "pending": 2, "failed": 3}
    return order.get(task.state, 4), task.machine, task.disk


def _session_row(session: SessionView) -> Row:
    total = sum(task.size_bytes for task in session.tasks)
    done = sum(task.size_bytes if task.state == "done" else task.done_bytes for task in session.tasks)
    rate = sum(task.rate_bytes_s for task in session.tasks if task.state == "running")
    return Row(
        session.session_id,
        (
            STATES.get(session.state, Cell(session.state)),
            Cell(f"{session.name} ({session.kind})", "strong"),
            Cell(bar(done, total)),
            _amount(session.totals.read_bytes),
            _amount(session.totals.transferred_bytes),
            _amount(rate, "/s"),
            Cell(""),
            Cell(""),
        ),
        _session_details(session),
    )


def _ended_row(session: SessionView) -> Row:
    return Row(
        session.session_id,
        (
            STATES.get(session.result, Cell(session.result)),
            Cell(f"{session.name} ({session.kind}) {moment(session.ended)}", "dim"),
            Cell(f"in {duration(session.duration_s)}", "dim"),
            _amount(session.totals.read_bytes, tone="dim"),
            _amount(session.totals.transferred_bytes, tone="dim"),
            Cell(""),
            Cell(""),
            Cell(session.error.code if session.error else "", "bad"),
        ),
        _session_details(session),
    )


def _task_row(session: SessionView, task: TaskView) -> Row:
    running = task.state == "running"
    done = task.size_bytes if task.state == "done" else task.done_bytes
    return Row(
        f"{session.session_id}/{task.task_id}",
        (
            STATES.get(task.state, Cell(task.state)),
            Cell("  " + task_name(task)),
            Cell(bar(done, task.size_bytes) if running or task.state == "done" else ""),
            _amount(task.totals.read_bytes),
            _amount(task.totals.transferred_bytes),
            _amount(task.rate_bytes_s if running else 0, "/s"),
            Cell(duration(task.eta_s) if running and task.eta_s is not None else ""),
            Cell(_busiest(task)) if running else Cell(task.error.code if task.error else "", "bad"),
        ),
        _task_details(session, task),
    )


def _busiest(task: TaskView) -> str:
    """Name the stage that holds up the others, with its share of the time."""
    stage = max(task.busy, key=lambda name: task.busy[name], default="")
    return f"{stage} {task.busy[stage] * 100:.0f} %" if stage else ""


def _amount(count_bytes: float, unit: str = "", tone: str = "") -> Cell:
    return Cell(size(count_bytes) + unit if count_bytes else "", tone)


def _wait_row(session: SessionView, key: str, disk: str, reason: str, details: tuple[tuple[str, str], ...]) -> Row:
    code, _, detail = reason.partition(": ")
    return Row(
        key,
        (
            Cell(session.name),
            Cell(disk),
            Cell(f"○ {code}" if code else "○ not placed yet", "warn"),
            Cell(detail or REASONS.get(code, "")),
        ),
        details,
    )


def _session_details(session: SessionView) -> tuple[tuple[str, str], ...]:
    return (
        ("session", session.session_id),
        ("job", f"{session.name} ({session.job_id})" if session.job_id else session.name),
        ("kind", session.kind),
        ("state", session.state),
        ("waits for", session.reason),
        ("result", "" if session.result == "none" else session.result),
        ("created", moment(session.created)),
        ("ended", moment(session.ended) if session.ended else ""),
        ("read", size(session.totals.read_bytes)),
        ("transferred", size(session.totals.transferred_bytes)),
        ("stored", size(session.totals.stored_bytes)),
        *_problems(session),
        ("log", f"python -m vbrcore session log {session.session_id}"),
    )


def _task_details(session: SessionView, task: TaskView) -> tuple[tuple[str, str], ...]:
    code, _, detail = task.reason.partition(": ")
    return (
        ("task", task.task_id),
        ("session", f"{session.session_id} ({session.name})"),
        ("machine", task.machine),
        ("disk", task.disk or "configuration"),
        ("state", task.state),
        ("waits for", code),
        ("which means", detail or REASONS.get(code, "")),
        ("server", task.server),
        ("attempt", str(task.attempt) if task.attempt > 1 else ""),
        ("size", size(task.size_bytes)),
        ("read", size(task.totals.read_bytes)),
        ("transferred", size(task.totals.transferred_bytes)),
        ("read for the audit", size(task.totals.audit_bytes) if task.totals.audit_bytes else ""),
        ("busy", " › ".join(f"{stage} {share * 100:.0f} %" for stage, share in task.busy.items())),  # noqa: RUF001
        *_problems(task),
    )


def _problems(view: SessionView | TaskView) -> Iterator[tuple[str, str]]:
    for warning in view.warnings:
        yield "warning", warning
    if view.error:
        yield "error", f"{view.error.code}: {view.error.message}"
        yield "hint", view.error.hint


def _process_details(view: ProcessView) -> tuple[tuple[str, str], ...]:
    return (
        ("process", _process_name(view)),
        ("pid", f"{view.pid}, started by {view.parent_pid}"),
        ("server", view.server),
        ("job", f"{view.job_name} ({view.job_id})" if view.job_name else view.job_id),
        ("session", view.session_id),
        ("task", view.task_id),
        ("disk", view.disk),
        ("cpu", f"{view.cpu_percent:.0f} %"),
        ("memory", size(view.memory_bytes)),
        ("log", view.log_path),
    )


def _process_name(view: ProcessView) -> str:
    return f"{view.role} mover" if view.kind == "mover" and view.role else view.kind.replace("-", " ")


def _guides(depths: list[int]) -> list[str]:
    """Return the lines that lead from each process to its parent, for a tree in depth-first order."""
    guides = []
    for number, depth in enumerate(depths):
        text = ""
        for level in range(1, depth + 1):
            # Does another process of this level follow before the tree goes back below it?
            later = next((d for d in depths[number + 1 :] if d <= level), 0)
            more = later == level
            text += ("├─ " if more else "└─ ") if level == depth else ("│  " if more else "   ")
        guides.append(text)
    return guides


def bar(done: int, total: int) -> str:
    """Draw a share as blocks and as a number, e.g. `████░░░░░░  42 %`; nothing where there is no total."""
    if total <= 0:
        return ""
    share = min(max(done / total, 0.0), 1.0)
    full = int(share * BAR_WIDTH)
    return "█" * full + "░" * (BAR_WIDTH - full) + f" {int(share * 100):3d} %"
