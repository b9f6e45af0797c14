"""`python -m vbrcore`: the processes of the house by their names, everything else is the command line.

Each entry imports its part only when it is the one asked for, so that a mover starts in milliseconds.
"""

import sys
from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process or command named by the arguments; return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    match args[:2]:
        case ["mover", *_]:
            from vbrcore.mover.main import main as mover  # noqa: PLC0415 - see the module's docstring

            return mover(args[1:])
        case ["transport", *_]:
            from vbrcore.transport.server import main as transport  # noqa: PLC0415

            return transport(args[1:])
        case ["job-manager" | "hypervisor-check" as name, *_]:
            return _of_the_manager(name)(args[1:])
        case ["service", "run"]:
            from vbrcore.service.main import main as service  # noqa: PLC0415

            return service(args[2:])
        case ["tui", *_] if not {"--help", "-h"} & set(args):
            from vbr_tui.main import main as tui  # noqa: PLC0415

            return tui(args[1:])
        case _:
            from vbrcore.cli.main import main as command  # noqa: PLC0415

            return command(args)


def _of_the_manager(name: str) -> Callable[[Sequence[str]], int]:
    """Return a process that may run plugins: a session's, or the short one that has one look."""
    if name == "job-manager":
        from vbrcore.manager.main import main as manager  # noqa: PLC0415

        return manager
    from vbrcore.manager.look import main as look  # noqa: PLC0415

    return look


if __name__ == "__main__":
    sys.exit(main())
