from typing import Literal

import pytest

from vbrcore.api.types import ProcessView
from vbrcore.cli import output
from vbrcore.cli.ps import tree

Kind = Literal["service", "job-manager", "transport", "mover"]


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5.0 GiB"), (3 * 1024**6, "3072.0 PiB")],
)
def test_sizes_for_people(count_bytes: int, text: str) -> None:
    assert output.size(count_bytes) == text


@pytest.mark.parametrize(
    ("length_s", "text"),
    [(0.42, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3700, "1 h 1 min")],
)
def test_durations_for_people(length_s: float, text: str) -> None:
    assert output.duration(length_s) == text


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME",), [("\x1b]0;evil\x07web\n1",)])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2
    assert "\x1b" not in printed
    assert "web" in printed


def test_an_empty_table_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME",), [])
    assert capsys.readouterr().out == ""


def test_columns_align(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "LONG"), [("wide cell", "x"), ("y", "")])
    assert capsys.readouterr().out == "A          LONG\nwide cell  x\ny\n"


def process(kind: Kind, pid: int, parent_pid: int, server: str = "local", session_id: str = "s1") -> ProcessView:
    return ProcessView(kind, pid, parent_pid, server, "", "j1", session_id, "", "", 0.0, 0, "")


def test_the_process_tree() -> None:
    views = [
        process("mover", 40, 30),
        process("job-manager", 20, 10),
        process("service", 10, 1, session_id=""),
        process("transport", 30, 20),
        process("mover", 41, 30),
        # On another server pids mean other processes; its transport belongs to the manager of the session.
        process("transport", 20, 10, server="far"),
        process("mover", 40, 20, server="far"),
        # A manager whose service died is a root.
        process("job-manager", 50, 1, session_id="s2"),
    ]
    assert [(depth, view.server, view.pid) for depth, view in tree(views)] == [
        (0, "local", 10),
        (1, "local", 20),
        (2, "local", 30),
        (3, "local", 40),
        (3, "local", 41),
        (2, "far", 20),
        (3, "far", 40),
        (0, "local", 50),
    ]
