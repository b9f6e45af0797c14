"""The dashboard's program: asks the service twice a second from a thread and shows what changed."""

import threading
import time
from typing import ClassVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.worker import get_current_worker

from vbr_tui.screens import Details, Now
from vbr_tui.store import Picture, Source
from vbr_tui.widgets.live_table import LiveTable
from vbrcore.model.errors import ErrorInfo, info_of

PERIOD_S = 0.5
# While the service is away it is asked less often.
LOST_PERIOD_S = 2.0


class Dashboard(App[None]):
    """What runs now, what waits and why, and the processes that do it."""

    TITLE = "vbrcore"
    CSS_PATH = "tui.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - declared so by Textual
        (0, "-stacked"),
        (240, "-wide"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("p", "pause", "Pause"),
        Binding("r", "reconnect", "Refresh"),
    ]

    class Arrived(Message):
        """A new picture."""

        def __init__(self, picture: Picture) -> None:
            super().__init__()
            self.picture = picture

    class Lost(Message):
        """The service did not answer."""

        def __init__(self, error: ErrorInfo) -> None:
            super().__init__()
            self.error = error

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.picture: Picture | None = None
        self.lost: ErrorInfo | None = None
        self.paused = False
        self._source = source
        self._wake = threading.Event()
        self._start_service = True

    def on_mount(self) -> None:
        self.push_screen(Now())
        self._look()

    def on_unmount(self) -> None:
        self._wake.set()

    @work(thread=True, exclusive=True, exit_on_error=True)
    def _look(self) -> None:
        """Ask until the program ends. Only messages leave this thread."""
        worker = get_current_worker()
        while not worker.is_cancelled and self.is_running:
            period_s = PERIOD_S
            if not self.paused:
                start, self._start_service = self._start_service, False
                try:
                    self.post_message(self.Arrived(self._source.look(start=start)))
                except Exception as error:  # noqa: BLE001 - whatever is wrong over there is shown, not a crash here
                    self.post_message(self.Lost(info_of(error)))
                    period_s = LOST_PERIOD_S
            self._wake.wait(period_s)
            self._wake.clear()
        self._source.close()

    def on_dashboard_arrived(self, message: Arrived) -> None:
        self.picture, self.lost = message.picture, None
        self._tell()

    def on_dashboard_lost(self, message: Lost) -> None:
        self.lost = message.error
        self._tell()

    def _tell(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Now):
                screen.show()

    def on_live_table_chosen(self, message: LiveTable.Chosen) -> None:
        self.push_screen(Details(message.row))

    def age_s(self) -> float | None:
        """Return how old the picture is, None before the first one."""
        return time.monotonic() - self.picture.taken if self.picture else None

    def action_pause(self) -> None:
        self.paused = not self.paused
        self._wake.set()
        self._tell()

    def action_reconnect(self) -> None:
        """Ask at once, and start a service where none runs."""
        self.paused = False
        self._start_service = self.lost is not None
        self._wake.set()

    def action_help(self) -> None:
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()
