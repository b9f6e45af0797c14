"""The screens: what happens now, and what is known of one line of it."""

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from vbr_tui import rows
from vbr_tui.widgets.live_table import LiveTable, Row

if TYPE_CHECKING:
    from vbr_tui.app import Dashboard

# Older data is called by its age; older still and it is a warning.
FRESH_S = 3.0
STALE_S = 10.0


class Now(Screen[None]):
    """Sessions with their disks, what waits and why, and the process tree, live."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Panel", show=True),
        Binding("shift+tab", "app.focus_previous", "Panel before", show=False),
        Binding("1", "panel('sessions')", "Sessions", show=False),
        Binding("2", "panel('waiting')", "Waiting", show=False),
        Binding("3", "panel('processes')", "Processes", show=False),
    ]

    def compose(self) -> ComposeResult:
        with Horizontal(id="crumbs"):
            yield Static("vbrcore ▸ now", id="path")
            yield Static("", id="facts", markup=False)
        yield Static("", id="lost", markup=False)
        with Container(id="panels"):
            with Container(id="work"):
                yield LiveTable(rows.SESSION_COLUMNS, title="Sessions", id="sessions")
                yield LiveTable(rows.WAIT_COLUMNS, title="Waiting, and why", id="waiting")
            yield LiveTable(rows.PROCESS_COLUMNS, title="Processes", id="processes")
        yield Footer()

    def on_mount(self) -> None:
        for table in self.query(LiveTable):
            table.show((), ("Asking the service ...",))
        self.set_interval(0.5, self._show_facts)
        self.query_one("#sessions").focus()

    def show(self) -> None:
        """Bring the panels up to the newest picture."""
        dashboard = cast("Dashboard", self.app)
        self._show_facts()
        lost = self.query_one("#lost", Static)
        lost.set_class(dashboard.lost is not None, "shown")
        if dashboard.lost:
            error = dashboard.lost
            lost.update(f"✗ {error.code}: {error.message}\n{error.hint}\nTrying again; r starts a service.")
        picture = dashboard.picture
        if picture is None:
            if dashboard.lost:
                for table in self.query(LiveTable):
                    table.show((), ("The service cannot be reached.",))
            return
        with self.app.batch_update():
            self.query_one("#sessions", LiveTable).show(rows.session_rows(picture), rows.next_command(picture))
            waits = "Nothing waits." if picture.sessions else "Nothing waits: nothing runs."
            self.query_one("#waiting", LiveTable).show(rows.wait_rows(picture), (waits,))
            self.query_one("#processes", LiveTable).show(rows.process_rows(picture), ("No process is reported.",))

    def action_panel(self, name: str) -> None:
        self.query_one(f"#{name}").focus()

    def _show_facts(self) -> None:
        dashboard = cast("Dashboard", self.app)
        facts = self.query_one("#facts", Static)
        picture, age_s = dashboard.picture, dashboard.age_s()
        age = "" if age_s is None or age_s < FRESH_S else f"{age_s:.0f} s old"
        facts.set_class(bool(age_s and age_s > STALE_S), "stale")
        facts.set_class(dashboard.lost is not None, "lost")
        if picture is None:
            facts.update("✗ service unreachable" if dashboard.lost else "◌ connecting")
            return
        sessions = len(picture.sessions)
        waiting = len(rows.wait_rows(picture))
        state = "✗ service unreachable" if dashboard.lost else ("○ paused" if dashboard.paused else "● live")
        parts = [
            f"{sessions} session{'' if sessions == 1 else 's'}",
            f"{waiting} waiting",
            f"service {picture.service.pid}",
            state,
            age,
        ]
        facts.update(" · ".join(part for part in parts if part))


class Details(Screen[None]):
    """All that is known of one row, as it was when it was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.pop_screen", "Back")]

    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    def compose(self) -> ComposeResult:
        with Horizontal(id="crumbs"):
            yield Static(f"vbrcore ▸ now ▸ {self._row.key}", id="path", markup=False)
        shown = [(name, value) for name, value in self._row.details if value]
        width = max((len(name) for name, _ in shown), default=0)
        text = Text()
        for name, value in shown:
            text.append(f"{name.ljust(width)}  ", style="bold")
            text.append(f"{value}\n")
        with VerticalScroll(id="details"):
            yield Static(text)
        yield Footer()
