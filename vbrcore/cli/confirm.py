"""The name typed again before backups are deleted."""

from __future__ import annotations

import sys

from vbrcore.cli.api import errors
from vbrcore.cli.output import clean


def confirmed(name: str, given: str | None, what: str) -> str:
    """Return the confirmation: as given by --confirm, else typed on a terminal.

    Raises `ConfirmationNeeded` where nobody can be asked or another name is typed.
    """
    answer = given
    if answer is None:
        if not sys.stdin.isatty():
            raise errors.ConfirmationNeeded(f"{what} {name!r} was not confirmed")
        print(
            f"{what} {clean(name)!r} cannot be undone. Type the name to confirm: ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline().rstrip("\n")
    if answer != name:
        raise errors.ConfirmationNeeded(f"{what} {name!r}: {answer!r} is another name, nothing was done")
    return answer
