"""Windows: times of each day."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Window
from vbrcore.model.window import check_window, is_open

BERLIN = ZoneInfo("Europe/Berlin")


def at(hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, 29, hour, minute, tzinfo=BERLIN).timestamp()


def test_the_begin_lies_in_the_window_and_the_end_does_not() -> None:
    window = Window("06:00", "20:00")
    assert [is_open(window, at(*when), BERLIN) for when in ((5, 59), (6, 0), (19, 59), (20, 0))] == [
        False,
        True,
        True,
        False,
    ]


def test_a_window_may_pass_midnight() -> None:
    window = Window("22:00", "06:00")
    assert [is_open(window, at(hour), BERLIN) for hour in (21, 22, 23, 0, 5, 6)] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]


def test_without_times_it_is_always_open() -> None:
    assert is_open(Window(), at(3), BERLIN)
    check_window(Window())


@pytest.mark.parametrize(
    ("begin", "end"), [("22:00", ""), ("", "06:00"), ("06:00", "06:00"), ("25:00", "06:00"), ("x", "y")]
)
def test_what_is_no_window_is_refused(begin: str, end: str) -> None:
    with pytest.raises(InvalidValue):
        check_window(Window(begin, end))
