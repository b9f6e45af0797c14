"""The `__main__` of a bundle: `python3 -I -S BUNDLE transport ...` or `... mover ...`, and nothing else."""

import sys


def main() -> int:
    """Run what the first argument names; return its exit code."""
    match sys.argv[1:]:
        case ["transport", *words]:
            from vbrcore.transport.server import main as transport  # noqa: PLC0415

            return transport(words)
        case ["mover", *words]:
            from vbrcore.mover.main import main as mover  # noqa: PLC0415

            return mover(words)
    return 2


if __name__ == "__main__":
    sys.exit(main())
