"""`python -m vbrcore tui`: the dashboard on a terminal, or one picture of it as files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from textual.geometry import Size

from vbr_tui.app import Dashboard
from vbr_tui.picture import write_screenshot
from vbr_tui.store import Store
from vbrcore.api.client import Client

# A service that hangs is shown as unreachable.
ANSWER_TIMEOUT_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Show the dashboard until the user leaves it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vbrcore tui", description="The dashboard.")
    parser.add_argument("--home", default="", help="where all state of the deployment is (VBRCORE_HOME)")
    parser.add_argument("--screenshot", metavar="DIR", type=Path, help="write one picture as SVG and text, and end")
    parser.add_argument("--size", metavar="WxH", type=_size, default=Size(120, 40), help="of the picture (120x40)")
    args = parser.parse_args(argv)
    app = Dashboard(Store(lambda start: Client(args.home, start=start, timeout_s=ANSWER_TIMEOUT_S)))
    if args.screenshot:
        return write_screenshot(app, args.screenshot, args.size)
    app.run()
    return app.return_code or 0


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    return Size(int(width), int(height))
