"""Rules for days."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from vbrcore.model.days import check_days, is_day, is_due, latest_day
from vbrcore.model.errors import InvalidValue

BERLIN = ZoneInfo("Europe/Berlin")


def days(rule: str, first: date, count: int) -> list[int]:
    """Return the days of a span that a rule names, as days of the month."""
    span = (first + timedelta(days=number) for number in range(count))
    return [day.day for day in span if is_day(rule, day)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("sat", [7, 14, 21, 28]),
        ("first sat", [7]),
        ("last sat", [28]),
        ("second mon", [9]),
        ("15", [15]),
        ("31", [30]),
        ("1, last sun", [1, 29]),
        ("SUN,wed", [1, 4, 8, 11, 15, 18, 22, 25, 29]),
        ("", []),
    ],
)
def test_november_2026(rule: str, expected: list[int]) -> None:
    check_days(rule)
    assert days(rule, date(2026, 11, 1), 30) == expected


def test_the_31st_is_the_last_day_of_february_too() -> None:
    assert days("31", date(2028, 2, 1), 29) == [29]


@pytest.mark.parametrize("rule", ["saturday", "0", "32", "fifth sat", "last", "sat,", "first", "first 3", "-1", "²"])
def test_what_is_no_rule_is_named(rule: str) -> None:
    with pytest.raises(InvalidValue, match="names no day"):
        check_days(rule)


def test_the_latest_day() -> None:
    assert latest_day("sat", date(2026, 11, 29)) == date(2026, 11, 28)
    assert latest_day("29", date(2026, 11, 29)) == date(2026, 11, 29)
    assert latest_day("", date(2026, 11, 29)) is None


def at(day: int, hour: int) -> float:
    return datetime(2026, 11, day, hour, tzinfo=BERLIN).timestamp()


def test_due_once_for_each_day_however_many_were_missed() -> None:
    assert is_due("sat", at(27, 23), at(28, 0), BERLIN)
    assert not is_due("sat", at(28, 0), at(28, 23), BERLIN)
    assert not is_due("sat", at(28, 23), at(29, 12), BERLIN)
    assert is_due("sat", at(6, 12), at(29, 12), BERLIN)
    assert is_due("sat", None, at(29, 12), BERLIN)
    assert not is_due("", None, at(29, 12), BERLIN)
