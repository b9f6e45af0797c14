"""One picture of a running dashboard: SVG for people, plain text for tests and mails."""

import asyncio
import re
from pathlib import Path

from textual.app import App
from textual.geometry import Size

from vbr_tui.app import Dashboard

# The first answer may have to start a service.
PATIENCE_S = 30.0
# The picture is to need nothing but itself; a reader's own monospace font will do.
FONT_FROM_ELSEWHERE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def write_screenshot(app: Dashboard, directory: Path, size: Size) -> int:
    """Write `dashboard.svg` and `dashboard.txt` once the first answer is shown; return the exit code.

    Without an answer the picture shows why, and the exit code is that of the error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_write(app, directory, size))


async def _write(app: Dashboard, directory: Path, size: Size) -> int:
    async with app.run_test(size=(size.width, size.height)) as pilot:
        for _ in range(int(PATIENCE_S / 0.1)):
            if app.picture or app.lost:
                break
            await pilot.pause(0.1)
        await pilot.pause(0.2)
        svg = FONT_FROM_ELSEWHERE.sub("", app.export_screenshot(title="vbrcore"))
        (directory / "dashboard.svg").write_text(svg)
        (directory / "dashboard.txt").write_text(screen_text(app))
        return app.lost.exit_code if app.lost else 0


def screen_text(app: App[None]) -> str:
    """Return what is on the screen, line by line, without the blanks at the ends."""
    lines = app.screen._compositor.render_strips()  # noqa: SLF001 - the same lines that an SVG is made of
    return "".join("".join(segment.text for segment in line).rstrip() + "\n" for line in lines)
