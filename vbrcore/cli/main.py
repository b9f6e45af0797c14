"""`python -m vbrcore`: parse, run, report. Only the module of the noun that was asked for is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence

from vbrcore.cli import parser as parsers
from vbrcore.cli.parser import NOUNS, Parser

EXIT_INTERRUPTED = 130
_EXAMPLES = (
    "hypervisor add lab --plugin images --set path=/srv/machines",
    "repository add main --path /srv/backup",
    "job create nightly --hypervisor lab --machine '*' --repository main",
    "job run nightly",
)


def build_parser(wanted: Collection[str] = tuple(NOUNS)) -> Parser:
    """Make the parser; nouns that are not `wanted` get a line in the help and no verbs."""
    parser = parsers.root(examples=_EXAMPLES)
    nouns = parser.add_subparsers(title="nouns", metavar="NOUN", dest="noun", required=True)
    for name, summary in NOUNS.items():
        if name in wanted:
            importlib.import_module(f"vbrcore.cli.{name}").add_parser(nouns)
        else:
            nouns.add_parser(name, help=summary)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are printed, never raised."""
    try:
        args = build_parser(NOUNS.keys() & set(argv)).parse_args(argv)
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; the interpreter's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: one clear line for every error
        from vbrcore.cli.report import report_exception  # noqa: PLC0415 - needed only when something is wrong

        return report_exception(error, as_json="--json" in argv)
    return code
