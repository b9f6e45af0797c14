from pathlib import Path

import pytest

from vbrcore.cli.zone import local_zone


@pytest.fixture(autouse=True)
def _no_tz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)


@pytest.mark.parametrize("prefix", ["/usr/share/zoneinfo", "../usr/share/zoneinfo"])
def test_the_zone_is_what_localtime_links_to(tmp_path: Path, prefix: str) -> None:
    link = tmp_path / "localtime"
    link.symlink_to(f"{prefix}/Europe/Berlin")
    assert local_zone(link) == "Europe/Berlin"


def test_tz_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone(tmp_path / "absent") == "America/New_York"


@pytest.mark.parametrize("tz", ["EST5EDT4,M3.2.0,M11.1.0", "/etc/passwd", "Nowhere/Land"])
def test_a_tz_without_a_name_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tz: str) -> None:
    monkeypatch.setenv("TZ", tz)
    assert local_zone(tmp_path / "absent") == "UTC"


def test_a_copied_localtime_is_utc(tmp_path: Path) -> None:
    file = tmp_path / "localtime"
    file.write_bytes(b"TZif")
    assert local_zone(file) == "UTC"
