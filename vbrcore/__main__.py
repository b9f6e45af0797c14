"""`python -m vbrcore`: the processes of the house by their names, everything else is the command line.

Each entry imports its part only when it is the one asked for, so that a mover starts in milliseconds.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process or command named by the arguments; return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    match args[:2]:
        case ["mover", *_]:
            from vbrcore.mover.main import main as run  # noqa: PLC0415 - see the module's docstring
        case ["transport", *_]:
            from vbrcore.transport.server import main as run  # noqa: PLC0415
        case ["job-manager", *_]:
            from vbrcore.manager.main import main as run  # noqa: PLC0415
        case ["service", "run"]:
            from vbrcore.service.main import main as run  # noqa: PLC0415

            return run(args[2:])
        case ["tui", *_] if "--help" not in args and "-h" not in args:
            from vbr_tui.main import main as run  # noqa: PLC0415
        case _:
            from vbrcore.cli.main import main as run_command  # noqa: PLC0415

            return run_command(args)
    return run(args[1:])


if __name__ == "__main__":
    sys.exit(main())
