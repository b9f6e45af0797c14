"""A table of living things: rows come and go, the cursor stays on the row it was on, only changed lines are drawn.

Textual's own table measures every new cell (seconds for some thousand rows) and is slow to remove rows; this one draws
the visible lines and nothing else.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

TONES = ("good", "warn", "bad", "dim", "strong")


class Column(msgspec.Struct, frozen=True):
    """`width` 0 takes its share, by `weight`, of what is left. Shown only in tables at least `from_width` cells wide.

    A text that is too long keeps its end where the column says `keep_end` (paths), else its beginning.
    """

    title: str
    width: int = 0
    weight: int = 1
    from_width: int = 0
    right: bool = False
    keep_end: bool = False


class Cell(msgspec.Struct, frozen=True):
    """`tone` is one of `TONES` or "" (plain)."""

    text: str
    tone: str = ""


class Row(msgspec.Struct, frozen=True):
    """`key` stays with the thing that the row shows; `details` is what `enter` tells about it, line by line."""

    key: str
    cells: tuple[Cell, ...]
    details: tuple[tuple[str, str], ...] = ()


class LiveTable(ScrollView, can_focus=True):
    """Rows under fixed titles; `empty` stands there while there are none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "go(0)", "First", show=False),
        Binding("end,G", "go(-1)", "Last", show=False),
        Binding("enter", "choose", "Details"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"live--title", "live--cursor", *(f"live--{tone}" for tone in TONES)}

    class Chosen(Message):
        """`enter` on a row."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, columns: Sequence[Column], *, title: str, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = title
        self._title = title
        self._columns = tuple(columns)
        self._rows: tuple[Row, ...] = ()
        self._empty: tuple[str, ...] = ()
        self._cursor = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    def show(self, rows: Sequence[Row], empty: Sequence[str]) -> None:
        """Take the place of what is shown; `empty` are the lines shown while there are no rows."""
        before, key = self._lines(), self._rows[self._cursor].key if self._rows else ""
        old_cursor = self._cursor
        self._rows, self._empty = tuple(rows), tuple(empty)
        keys = [row.key for row in self._rows]
        self._cursor = keys.index(key) if key in keys else max(min(self._cursor, len(keys) - 1), 0)
        self.border_title = f"{self._title} ({len(rows)})" if rows else self._title
        after = self._lines()
        self.virtual_size = Size(self.size.width, len(after) + 1)
        if len(before) != len(after):
            self.refresh()
            return
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new or number in {old_cursor, self._cursor}:
                self._refresh_row(number)

    def render_line(self, y: int) -> Strip:
        if y == 0:
            style = self.get_component_rich_style("live--title")
            cells = [Cell(column.title if self._rows else "") for column in self._columns]
            return self._strip(cells, style)
        number = y - 1 + self.scroll_offset.y
        lines = self._lines()
        if number >= len(lines):
            return Strip.blank(self.size.width, self.rich_style)
        line = lines[number]
        if isinstance(line, str):
            return Strip([Segment(set_cell_size(" " + line, self.size.width), self._style("dim", self.rich_style))])
        on_cursor = number == self._cursor and self.has_focus
        return self._strip(line.cells, self.get_component_rich_style("live--cursor") if on_cursor else self.rich_style)

    def action_move(self, step: int) -> None:
        self._go(self._cursor + step)

    def action_page(self, step: int) -> None:
        self._go(self._cursor + step * max(self.size.height - 2, 1))

    def action_go(self, number: int) -> None:
        self._go(number if number >= 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        if self._rows:
            self.post_message(self.Chosen(self._rows[self._cursor]))

    def on_click(self, event: Click) -> None:
        if event.y > 0 and self._rows:
            self._go(event.y - 1 + self.scroll_offset.y)

    def on_resize(self, _: Resize) -> None:
        self.virtual_size = Size(self.size.width, len(self._lines()) + 1)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.refresh()

    def _lines(self) -> Sequence[Row | str]:
        return self._rows or self._empty

    def _go(self, number: int) -> None:
        if not self._rows:
            return
        old, self._cursor = self._cursor, max(min(number, len(self._rows) - 1), 0)
        self._refresh_row(old)
        self._refresh_row(self._cursor)
        # The titles cover the first line of the view, so a row is in view when the line before it is.
        self.scroll_to_region(Region(0, self._cursor, 1, 2), animate=False, force=True)

    def _refresh_row(self, number: int) -> None:
        self.refresh(Region(0, number + 1 - self.scroll_offset.y, self.size.width, 1))

    def _style(self, tone: str, base: Style) -> Style:
        return base + self.get_component_rich_style(f"live--{tone}", partial=True) if tone else base

    def _widths(self) -> list[int]:
        """Return the width of each column, 0 for one that is not shown."""
        total = self.size.width
        shown = [column for column in self._columns if column.from_width <= total]
        left = max(total - 1 - sum(column.width + 1 for column in shown), 0)
        weights = sum(column.weight for column in shown if not column.width)
        return [
            0 if column not in shown else column.width or left * column.weight // weights for column in self._columns
        ]

    def _strip(self, cells: Sequence[Cell], base: Style) -> Strip:
        segments = [Segment(" ", base)]
        for cell, column, width in zip(cells, self._columns, self._widths(), strict=True):
            if width:
                text = fit(cell.text, width, right=column.right, keep_end=column.keep_end)
                # Blanks before a text stand alone: readers of SVG pictures drop them from the beginning of a text.
                blanks = len(text) - len(text.lstrip(" "))
                style = self._style(cell.tone, base)
                segments += [Segment(text[:blanks], style), Segment(text[blanks:], style), Segment(" ", base)]
        return Strip(segments).adjust_cell_length(self.size.width, base)


def fit(text: str, width: int, *, right: bool = False, keep_end: bool = False) -> str:
    """Cut or fill a text to a width in cells; an ellipsis stands for what was cut off."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    length = cell_len(text)
    if length > width:
        return "…" + set_cell_size(text[::-1], width - 1)[::-1] if keep_end else set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if right else text + " " * (width - length)
