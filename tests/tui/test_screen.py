"""The first screen: what it shows at the sizes of real terminals, and what the keys do."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from vbr_tui.app import Dashboard
from vbr_tui.picture import screen_text
from vbr_tui.screens import Details
from vbr_tui.store import Picture
from vbr_tui.widgets.live_table import LiveTable

from .pictures import Fixed, busy_picture, idle_picture, session, task

GOLDEN = Path(__file__).parent / "golden"
SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drive(
    source: Fixed, act: Callable[[Dashboard, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (80, 24)
) -> None:
    """Run a dashboard on a source without a terminal, wait for its first picture, then act."""

    async def run() -> None:
        app = Dashboard(source)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.picture is not None or app.lost is not None)
            await act(app, pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    while not holds():
        await pilot.pause(0.02)
    await pilot.pause()


def text_of(source: Fixed, size: tuple[int, int]) -> str:
    texts: list[str] = []

    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        await pilot.pause(0.05)
        texts.append(screen_text(app))

    drive(source, act, size)
    return texts[0]


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "no-colour"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("name", "picture"), [("busy", busy_picture()), ("idle", idle_picture()), ("lost", None)])
def test_looks_like_the_golden_text(
    name: str, picture: Picture | None, size: tuple[int, int], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if colour:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    golden = GOLDEN / f"{name}-{size[0]}x{size[1]}.golden"
    text = text_of(Fixed(picture), size)
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_empty_screen_says_the_next_command() -> None:
    def words(**changes: object) -> str:
        return text_of(Fixed(idle_picture(**changes)), (100, 24))

    assert "hypervisor add lab" in words(hypervisors=())
    assert "repository add main" in words(repositories=())
    assert "job create nightly --hypervisor lab --machine '*' --repository main" in words(jobs=())
    assert "job run nightly" in words()


def test_keys_move_between_panels_and_rows_and_open_details() -> None:
    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        assert app.focused is app.screen.query_one("#sessions")
        await pilot.press("j", "j", "enter")
        assert isinstance(app.screen, Details)
        text = screen_text(app)
        assert "now ▸ session-nightly/task1" in text
        assert "root.qcow2" in text
        assert "source 87 %" in text
        await pilot.press("escape", "tab")
        assert app.focused is app.screen.query_one("#waiting")
        await pilot.press("enter")
        assert "all slots of the proxies that can read it are taken" in screen_text(app)
        await pilot.press("escape", "3", "G", "k", "enter")
        assert "/var/lib/vbrcore/log/nightly/s1.jsonl" in screen_text(app)
        await pilot.press("escape", "escape", "question_mark")
        assert app.screen.query("HelpPanel")
        await pilot.press("question_mark", "q")
        assert not app.is_running or app.return_code == 0

    drive(Fixed(busy_picture()), act)


def test_the_cursor_stays_on_its_row_when_others_come_and_go() -> None:
    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        table = app.screen.query_one("#sessions", LiveTable)
        await pilot.press("j", "j")
        assert source.picture is not None
        first = session("archive", "running", (task(9, "web09", "root.raw", "running", done_bytes=1),))
        source.picture = msgspec.structs.replace(source.picture, sessions=(first, *source.picture.sessions))
        app.action_reconnect()
        await until(pilot, lambda: len(table.rows) == 10)
        await pilot.press("enter")
        assert "now ▸ session-nightly/task1" in screen_text(app)

    source = Fixed(busy_picture())
    drive(source, act)


def test_a_service_that_goes_away_is_shown_and_comes_back_on_demand() -> None:
    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        source.picture = None
        await until(pilot, lambda: app.lost is not None)
        text = screen_text(app)
        assert "✗ service unreachable" in text
        assert "nightly (backup)" in text  # what was known stays
        assert source.starts.count(True) == 1
        source.picture = idle_picture()
        await pilot.press("r")
        await until(pilot, lambda: app.lost is None)
        assert source.starts[-1] is True
        assert "● live" in screen_text(app)

    source = Fixed(busy_picture())
    drive(source, act)


def test_pause_stops_asking() -> None:
    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        await until(pilot, lambda: "○ paused" in screen_text(app))
        await pilot.press("p")
        await until(pilot, lambda: "● live" in screen_text(app))

    drive(Fixed(busy_picture()), act)


def test_names_from_guests_cannot_steer_the_terminal() -> None:
    evil = session("night\x1b[2Jly", "running", (task(1, "web\x1b]0;x\x07", "[bold]disk[/]", "running"),))
    text = text_of(Fixed(idle_picture(sessions=(evil,))), (120, 40))
    assert "\x1b" not in text
    assert "[bold]disk[/]" in text


def test_thousands_of_rows_cost_only_the_visible_ones() -> None:
    async def act(app: Dashboard, pilot: Pilot[None]) -> None:
        table = app.screen.query_one("#sessions", LiveTable)
        await until(pilot, lambda: len(table.rows) == 5001)
        await pilot.press("G", "enter")
        await until(pilot, lambda: "disk04999" in screen_text(app))

    many = tuple(task(n, f"vm{n:05}", f"disk{n:05}", "running") for n in range(5000))
    drive(Fixed(idle_picture(sessions=(session("nightly", "running", many),))), act)
