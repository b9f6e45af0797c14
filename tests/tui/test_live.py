"""The dashboard on a real service: what a running job looks like, and the picture that the command writes."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.conftest import Vbr
from vbr_tui.app import Dashboard
from vbr_tui.picture import screen_text
from vbr_tui.store import Store
from vbr_tui.widgets.live_table import LiveTable
from vbrcore.api.client import Client

MIB = 1024 * 1024


@pytest.fixture
def lab(vbr: Vbr, tmp_path: Path) -> Path:
    """Give a directory of one machine with two disks, known to the service, and a job `nightly`.

    The disks hold what takes seconds to compress, so that a dashboard which looks twice a second sees the job run.
    """
    lab = tmp_path / "lab"
    (lab / "web").mkdir(parents=True)
    sixteen_letters = bytes(ord("a") + number % 16 for number in range(256))
    for name, seed in (("root.raw", 1), ("data.raw", 2)):
        generator = random.Random(seed)  # noqa: S311 - contents, no secrets
        with (lab / "web" / name).open("wb") as file:
            for _ in range(128):
                file.write(generator.randbytes(MIB).translate(sixteen_letters))
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={lab}")
    vbr("repository", "add", "main", "--path", tmp_path / "repository", "--reserve", "1M")
    vbr(
        "job",
        "create",
        "nightly",
        "--hypervisor",
        "lab",
        "--machine",
        "*",
        "--repository",
        "main",
        "--compression",
        "high",
    )
    return lab


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    while not holds():
        await pilot.pause(0.05)


def keys(app: Dashboard, table: str) -> str:
    return "\n".join(" ".join(cell.text for cell in row.cells) for row in app.screen.query_one(table, LiveTable).rows)


def test_a_job_is_seen_from_start_to_end(vbr: Vbr, home: Path, lab: Path) -> None:
    async def watch() -> None:
        app = Dashboard(Store(lambda start: Client(home, start=start)))
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.picture is not None)
            assert "job run nightly" in screen_text(app)
            with vbr.start("job", "run", "nightly") as command:
                await until(pilot, lambda: "job manager" in keys(app, "#processes"))
                assert "nightly (backup)" in keys(app, "#sessions")
                await until(pilot, lambda: command.poll() is not None)
                assert command.communicate()[1] is not None
            await until(pilot, lambda: "✓ success" in keys(app, "#sessions"))
            await until(pilot, lambda: "mover" not in keys(app, "#processes"))

    assert lab.is_dir()
    asyncio.run(watch())


def test_a_killed_service_is_shown_and_comes_back_on_demand(home: Path) -> None:
    async def watch() -> None:
        app = Dashboard(Store(lambda start: Client(home, start=start)))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.picture is not None)
            assert app.picture is not None
            os.kill(app.picture.service.pid, 9)
            await until(pilot, lambda: app.lost is not None)
            await pilot.pause()
            assert "✗ service unreachable" in screen_text(app)
            await pilot.press("r")
            await until(pilot, lambda: app.lost is None)

    asyncio.run(watch())


def test_the_command_writes_a_picture(vbr: Vbr, tmp_path: Path) -> None:
    vbr("tui", "--screenshot", tmp_path / "out", "--size", "100x30")
    text = (tmp_path / "out" / "dashboard.txt").read_text()
    assert len(text.splitlines()) == 30
    assert "hypervisor add lab" in text
    svg = (tmp_path / "out" / "dashboard.svg").read_text()
    assert svg.startswith("<svg")
    assert "url(" not in svg.replace("url(#", "")  # it needs nothing from elsewhere
