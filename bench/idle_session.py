"""How long a session takes that has nothing to do: one small machine, unchanged, the service running.

    .venv/bin/python bench/idle_session.py                    5 sessions after a first full
    .venv/bin/python bench/idle_session.py --sessions 9 --json -

Stages are the gaps between the lines of the session log, named by the line that ends them; before the first line lie
the command and the start of the job manager, after the last one the end of the session as the command sees it.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.harness import MIB, Spread, parse_size, span, spread, table
from bench.ours import JOB, MACHINE, Deployment, JobResult, job_result
from bench.process import prepare

AIM_S: Final = 1.0
START: Final = "(command, start of the job manager)"
END: Final = "(end of the session, as the command sees it)"
_VARIABLE: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d[\d.,:]*")


class Stage(msgspec.Struct, frozen=True):
    """`wall_s` up to the log line `name`, over the sessions that have such a line at this place."""

    name: str
    wall_s: Spread


class IdleFigures(msgspec.Struct, frozen=True):
    """`wall_s`: the whole command; `session_s`: what the session says of itself; `help_s`: `--help`, to compare."""

    sessions: int
    wall_s: Spread
    session_s: Spread
    help_s: Spread
    stages: tuple[Stage, ...]
    aim_s: float = AIM_S

    @property
    def met(self) -> bool:
        return self.wall_s.median <= AIM_S


class _Session(msgspec.Struct, frozen=True):
    wall_s: float
    result: JobResult
    stages: tuple[tuple[str, float], ...]


def measure(workdir: Path, sessions: int, size_bytes: int) -> IdleFigures:
    """Back a small machine up once, then again and again."""
    machines = workdir / "machines"
    (machines / MACHINE).mkdir(parents=True)
    (machines / MACHINE / "disk.raw").write_bytes(os.urandom(size_bytes))
    deployment = Deployment(workdir / "home")
    try:
        deployment.images_job(machines, workdir / "repository")
        _run_once(deployment)
        runs = [_run_once(deployment) for _ in range(sessions)]
        help_s = [_timed(deployment, "--help") for _ in range(sessions)]
    finally:
        deployment.close()
    return IdleFigures(
        sessions=sessions,
        wall_s=spread([run.wall_s for run in runs]),
        session_s=spread([run.result.duration_s for run in runs]),
        help_s=spread(help_s),
        stages=_stages(runs),
    )


def _timed(deployment: Deployment, *arguments: str) -> float:
    started = time.perf_counter()
    deployment.run(*arguments)
    return time.perf_counter() - started


def _run_once(deployment: Deployment) -> _Session:
    started = time.time()
    output = deployment.run("job", "run", JOB, "--json")
    ended = time.time()
    result = job_result(output)
    log = next((deployment.home / "log").glob(f"*/{result.session_id}.jsonl"))
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["time"])
    marks = [(_named(line["message"]), float(line["time"])) for line in lines] + [(END, ended)]
    before = started
    stages: list[tuple[str, float]] = []
    for name, moment in marks:
        stages.append((name if stages else f"{START} {name}", max(0.0, moment - before)))
        before = moment
    return _Session(ended - started, result, tuple(stages))


def _named(message: str) -> str:
    """Return a log line without what differs from session to session."""
    return _VARIABLE.sub("#", message)


def _stages(runs: Sequence[_Session]) -> tuple[Stage, ...]:
    """Join the sessions' stages by name, in the order of the first session."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, wall_s in run.stages:
            found.setdefault(name, []).append(wall_s)
    return tuple(Stage(name, spread(values)) for name, values in found.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the stages; exit code 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=5, metavar="N", help="after the first, full one (5)")
    parser.add_argument("--size", type=parse_size, default=16 * MIB, metavar="SIZE", help="of the machine's disk (16M)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (-: to standard output)")
    args = parser.parse_args(argv)
    prepare()
    workdir = Path(tempfile.mkdtemp(prefix="vbrbench-"))
    try:
        figures = measure(workdir, args.sessions, args.size)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    document = msgspec.json.format(msgspec.json.encode(figures), indent=1).decode()
    if str(args.json) == "-":
        print(document)
    else:
        if args.json is not None:
            args.json.write_text(document + "\n", encoding="utf-8")
        print(_text(figures))
    return 0 if figures.met else 1


def _text(figures: IdleFigures) -> str:
    rows = [(stage.name, span(stage.wall_s, 3)) for stage in figures.stages]
    rows += [
        ("the whole command", span(figures.wall_s, 3)),
        ("the session's own time", span(figures.session_s, 3)),
        ("for comparison: --help", span(figures.help_s, 3)),
        ("aim for the whole command", f"{AIM_S:.3f}"),
    ]
    return table((f"seconds up to this line of the log, {figures.sessions} sessions", "median (min..max)"), rows)


if __name__ == "__main__":
    sys.exit(main())
