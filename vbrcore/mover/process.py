"""What movers and transports share as processes: their command line, and ending with their parent."""

import ctypes
import os
import signal
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from vbrcore.model.errors import UsageError

_PR_SET_PDEATHSIG = 1
_Options = TypeVar("_Options", bound=msgspec.Struct)


def parse_options(argv: Sequence[str], options: type[_Options]) -> _Options:
    """Read `--some-name value` pairs (and `--some-flag`) into a struct; these lines are written by programs only.

    Raises `UsageError` for what the struct does not know. No argparse: it would double a mover's start-up.
    """
    values: dict[str, str | bool] = {}
    words = list(argv)
    while words:
        name = words.pop(0)
        if not name.startswith("--"):
            raise UsageError(f"unexpected argument {name!r}")
        flag = not words or words[0].startswith("--")
        values[name[2:].replace("-", "_")] = True if flag else words.pop(0)
    try:
        return msgspec.convert(values, options)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends. A help only: the control stream is what counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid and os.getppid() != parent_pid:  # it ended before we could ask
        os.kill(os.getpid(), signal.SIGKILL)
