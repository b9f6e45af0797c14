"""`explain`: why something waits, and when it is expected to start."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vbrcore.cli import parser
from vbrcore.cli.api import balance, operations
from vbrcore.cli.context import call
from vbrcore.cli.output import clean, duration, print_fields, print_json, print_table
from vbrcore.cli.parser import NOUNS, Nouns, Parser

if TYPE_CHECKING:
    from collections.abc import Sequence


def add_parser(nouns: Nouns[Parser]) -> None:
    explain = parser.verb(nouns, "explain", _explain, NOUNS["explain"], "explain nightly", "explain TASK --json")
    explain.add_argument("name", metavar="JOB|SESSION|TASK", help="a job's name, or the id of a session or task")


def _explain(args: argparse.Namespace) -> int:
    view = call(args, operations.EXPLAIN, balance.Explain(args.name))
    if args.json:
        print_json(view)
        return 0
    print_fields({"session": view.session_id, "name": view.name, "state": view.state})
    for one in view.gateways:
        print(clean(f"\nrepository {one.repository} is opened by {one.gateway} ({one.reason}: {one.words})"))
        for other in one.others:
            print(clean(f"not {other.server}: {other.reason}: {other.detail}"))
    for run in view.runs:
        way = f"{run.server} {run.mode}".strip() or "its repository"
        print(clean(f"\n{run.machine} {run.disk} has what it needs, at {way}{f' ({run.why})' if run.why else ''}"))
    for wait in view.waits:
        print()
        print_wait(wait)
    if not view.waits:
        print("\nnothing waits")
    return 0


def print_wait(wait: balance.WaitView) -> None:
    rank = wait.rank
    soon = "nobody can tell" if wait.starts_in_s is None else f"in about {duration(wait.starts_in_s)}"
    print_fields(
        {
            "waits": f"{wait.machine} {wait.disk}".strip() or wait.demand_id,
            "reason": f"{wait.reason}: {wait.detail}",
            "place": f"{wait.place} of {wait.of}",
            "starts": soon,
            "rank": f"{rank.rank} = class {rank.class_rank} + start {rank.start} + ageing {rank.ageing}",
            "kept for it": ", ".join(wait.kept),
            "before it": ", ".join(wait.ahead),
        }
    )
    print_table(("NEEDS", "USED", "HELD BY"), _rows(wait.resources))
    for candidate in wait.candidates:
        state = candidate.reason and f"{candidate.reason}: {candidate.detail}"
        merits = f" ({'; '.join(candidate.merits)})" if candidate.merits else ""
        print(clean(f"{candidate.server} {candidate.mode}{merits}: {state or 'free'}"))
        print_table(
            ("  NEEDS", "USED", "HELD BY"), [(f"  {name}", *rest) for name, *rest in _rows(candidate.resources)]
        )
    for one in wait.excluded:
        print(clean(f"not {one.server}: {one.reason}: {one.detail}"))


def _rows(uses: Sequence[balance.UseView]) -> list[tuple[str, str, str]]:
    return [
        (
            use.label,
            f"{use.used}/{use.limit}" + (f", {use.kept} kept" if use.kept else ""),
            ", ".join(dict.fromkeys(f"{one.name} {one.machine} {one.disk}".strip() for one in use.holders)) or "-",
        )
        for use in uses
    ]
