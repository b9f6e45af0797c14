"""What carries sessions to several service nodes: procrastinate against plain SKIP LOCKED and LISTEN (an ADR).

    python3 -m venv DIR && DIR/bin/pip install --require-hashes -r requirements/engine.txt
    PYTHONPATH=. DIR/bin/python bench/engine.py --json -

starts a PostgreSQL of its own (initdb, pg_ctl; a Unix socket only) and for each engine service nodes as processes:
how many sessions are submitted, claimed and finished a second, how long an idle node takes to hear of one, what is
written per session; then what happens when a node is killed, when it hangs and comes back, when the database crashes
and starts again, in which order sessions are claimed, and whether a job can be run twice at a time.
"""

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bench.harness import Spread, rotated, span, spread, table

if TYPE_CHECKING:
    from bench.engine_trials import Failures, Order, Trial

ENGINES: Final = ("plain", "procrastinate")
PARTS: Final = {
    "plain": ("psycopg", "psycopg-binary"),
    "procrastinate": (
        "psycopg",
        "psycopg-binary",
        "psycopg-pool",
        "procrastinate",
        "asgiref",
        "attrs",
        "croniter",
        "packaging",
        "python-dateutil",
    ),
}
_IMPORTS: Final = {"plain": "psycopg", "procrastinate": "procrastinate"}
_IMPORT_TURNS: Final = 5


class EngineFigures(msgspec.Struct, frozen=True):
    """`per_s`: sessions claimed and finished by all nodes together; `wake_ms`: from submit's begin to the claim.

    `wal_bytes`: written ahead per session, submit to end. `connections`: of an idle node.
    `schema`: how many of each kind the database then has. `parts`: version and licence of each distribution.
    `import_ms`: CPU time over `pass`, the smallest of some.
    """

    per_s: Spread
    submits_per_s: Spread
    wake_ms: Spread
    wake_p95_ms: float
    wal_bytes: Spread
    connections: float
    schema: dict[str, int]
    order: "Order"
    failures: "Failures"
    parts: dict[str, str]
    import_ms: float


class Figures(msgspec.Struct, frozen=True):
    sessions: int
    nodes: int
    rounds: int
    lease_s: float
    heartbeat_s: float
    poll_s: float
    outage_s: float
    postgres: str
    role_takeover_s: float | None
    engines: dict[str, EngineFigures]


def measure(trials: "dict[str, Trial]", rounds: int) -> dict[str, EngineFigures]:
    """Take the engines' figures in turns, so that what else runs on the machine slows both."""
    from bench.engine_trials import Load  # noqa: PLC0415 - needs the drivers

    loads: dict[str, list[Load]] = {engine: [] for engine in trials}
    wakes: dict[str, list[float]] = {engine: [] for engine in trials}
    for turn in range(rounds):
        for engine in rotated(list(trials), turn):
            loads[engine].append(trials[engine].load())
            wakes[engine] += trials[engine].wakes()
    return {
        engine: EngineFigures(
            per_s=spread([load.per_s for load in loads[engine]]),
            submits_per_s=spread([load.submits_per_s for load in loads[engine]]),
            wake_ms=spread(wakes[engine]),
            wake_p95_ms=sorted(wakes[engine])[len(wakes[engine]) * 95 // 100],
            wal_bytes=spread([load.wal_bytes for load in loads[engine]]),
            connections=trial.connections(),
            schema=trial.schema(),
            order=trial.order(),
            failures=trial.failures(),
            parts={part: _licence(part) for part in PARTS[engine]},
            import_ms=_import_ms(_IMPORTS[engine]),
        )
        for engine, trial in trials.items()
    }


def _licence(part: str) -> str:
    found = importlib.metadata.metadata(part)
    names = [name.rpartition(" :: ")[2] for name in found.get_all("Classifier") or () if name.startswith("License")]
    licences = [*(found.get_all("License-Expression") or ()), *names, *(found.get_all("License") or ()), "?"]
    return f"{found['Version']} ({licences[0]})"


def _import_ms(module: str) -> float:
    """Return the CPU time that an import takes over an interpreter that does nothing."""
    return (_cpu_s(f"import {module}") - _cpu_s("pass")) * 1000


def _cpu_s(statement: str) -> float:
    program = f"{statement}; import time; print(time.process_time())"
    command = [sys.executable, "-c", program]
    return min(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(_IMPORT_TURNS)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=2000, metavar="N", help="of a round's load (2000)")
    parser.add_argument("--wakes", type=int, default=50, metavar="N", help="sessions for idle nodes, a round (50)")
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help="service nodes, two or more (4)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of load and of wakes (3)")
    parser.add_argument("--lease", type=float, default=3.0, metavar="S", help="a lease; a heartbeat is a third (3)")
    parser.add_argument("--poll", type=float, default=5.0, metavar="S", help="looks that nobody asked for (5)")
    parser.add_argument("--outage", type=float, default=1.0, metavar="S", help="of the database, after a crash (1)")
    parser.add_argument("--postgres", type=Path, metavar="DIR", help="where initdb and pg_ctl are (PATH)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (-: to standard output)")
    args = parser.parse_args(argv)
    missing = [name for name in _IMPORTS.values() if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} not installed: requirements/engine.txt has what this program needs")
    from bench.engine_server import PostgresServer  # noqa: PLC0415 - what is missing was told above
    from bench.engine_trials import Trial  # noqa: PLC0415

    with PostgresServer(args.postgres) as server:
        trials = {
            engine: Trial(
                engine,
                server,
                sessions=args.sessions,
                wakes=args.wakes,
                nodes=args.nodes,
                lease_s=args.lease,
                poll_s=args.poll,
                outage_s=args.outage,
            )
            for engine in ENGINES
        }
        figures = Figures(
            sessions=args.sessions,
            nodes=args.nodes,
            rounds=args.rounds,
            lease_s=args.lease,
            heartbeat_s=args.lease / 3,
            poll_s=args.poll,
            outage_s=args.outage,
            postgres=trials["plain"].version(),
            role_takeover_s=trials["plain"].role_s(),
            engines=measure(trials, args.rounds),
        )
    document = msgspec.json.format(msgspec.json.encode(figures), indent=1).decode()
    if str(args.json) == "-":
        print(document)
    else:
        if args.json is not None:
            args.json.write_text(document + "\n", encoding="utf-8")
        print(_text(figures))
    return 0


def _text(figures: Figures) -> str:
    engines = figures.engines.values()
    rows = [
        ("sessions claimed and finished a second", *(span(one.per_s, 0) for one in engines)),
        ("submitted a second, one connection", *(span(one.submits_per_s, 0) for one in engines)),
        ("from submit to claim by an idle node, ms", *(span(one.wake_ms) for one in engines)),
        ("95 % of these within, ms", *(f"{one.wake_p95_ms:.1f}" for one in engines)),
        ("written ahead per session, bytes", *(span(one.wal_bytes, 0) for one in engines)),
        ("connections of an idle node", *(f"{one.connections:.1f}" for one in engines)),
        ("CPU time of the import, ms", *(f"{one.import_ms:.0f}" for one in engines)),
    ]
    for kind in ("schema", "order", "failures"):
        values = [msgspec.to_builtins(getattr(one, kind)) for one in engines]
        rows += [(f"{kind}: {name}", *(_cell(one[name]) for one in values)) for name in values[0]]
    return table((f"{figures.postgres}, {figures.nodes} nodes", *figures.engines), rows)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
