"""Parsers of nouns and verbs: examples first, `--home` and `--json` anywhere, errors raised and not printed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import NoReturn

from vbrcore.cli.api import errors

NOUNS = {
    "hypervisor": "where machines are found",
    "repository": "where backup files are kept",
    "job": "what is backed up, where to and when",
    "schedule": "when jobs run by themselves",
    "session": "runs of jobs, restores and checks",
    "point": "restore points",
    "retention": "which restore points stay, and why",
    "health": "whether what is stored can still be read",
    "restore": "a disk or a whole machine from a restore point",
    "verify": "check that a restore point can be read",
    "plugins": "the hypervisor plugins that are installed",
    "ps": "the processes of this deployment",
    "explain": "why something waits, and when it will start",
    "slots": "what is in use of servers and repositories, and by whom",
    "credential": "accounts whose passwords are sealed",
    "network": "what may travel between two sites",
    "server": "managed servers: this machine, and those reached over SSH",
    "service": "the backup service itself",
    "tui": "the dashboard",
    "completion": "completion for a shell",
}

_WIDEST = 100


class _Help(argparse.HelpFormatter):
    """As wide as the terminal, up to 100 columns; argparse would import shutil to ask."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(_columns(), _WIDEST) - 2)
        # argparse measures nouns and verbs without their indentation and then breaks the line after long ones.
        self._action_max_length = 14


def _columns() -> int:
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    try:
        return os.get_terminal_size().columns
    except OSError:
        return _WIDEST


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose help begins with examples and whose errors are `UsageError`."""

    def __init__(self, *, prog: str, examples: tuple[str, ...] = (), description: str = "") -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_Help)
        self.examples = examples

    def format_help(self) -> str:
        text = super().format_help()
        if not self.examples:
            return text
        lines = "".join(f"  vbrcore {example}\n" for example in self.examples)
        return f"examples:\n{lines}\n{text}"

    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(f"{self.prog}: {message}")


Nouns = argparse._SubParsersAction  # noqa: SLF001 - argparse gives this class no public name
Command = Callable[[argparse.Namespace], int]


def root(*, examples: tuple[str, ...]) -> Parser:
    """Make the parser of `vbrcore` itself."""
    parser = Parser(
        prog="vbrcore", examples=examples, description="Back up and recover virtual machines of any hypervisor."
    )
    parser.add_argument("--home", metavar="DIR", help="directory with all state of one deployment (VBRCORE_HOME)")
    parser.add_argument("--json", action="store_true", help="print JSON: an array for a listing, else one object")
    return parser


def noun(nouns: Nouns[Parser], name: str, *examples: str) -> Nouns[Parser]:
    """Add the noun `name`, which has verbs."""
    parser = nouns.add_parser(name, help=NOUNS[name], description=_sentence(NOUNS[name]), examples=examples)
    _add_common(parser)
    return parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)


def verb(verbs: Nouns[Parser], name: str, run: Command, summary: str, *examples: str) -> Parser:
    """Add a verb of a noun, or a noun that is its own verb."""
    parser = verbs.add_parser(name, help=summary, description=_sentence(summary), examples=examples)
    parser.set_defaults(run=run)
    _add_common(parser)
    return parser


def _add_common(parser: Parser) -> None:
    # Without a default of its own, so that what was given before the noun stands.
    parser.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
