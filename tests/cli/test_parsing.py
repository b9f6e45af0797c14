import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vbrcore.cli import paths, values
from vbrcore.cli.main import build_parser, main
from vbrcore.cli.parser import NOUNS
from vbrcore.model.errors import InvalidValue, UsageError


def parse(*argv: str) -> argparse.Namespace:
    return build_parser().parse_args(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--home", "H", "--json", "job", "list"],
        ["job", "--home", "H", "--json", "list"],
        ["job", "list", "--home", "H", "--json"],
        ["--home", "other", "job", "list", "--home", "H", "--json"],
    ],
)
def test_home_and_json_stand_before_and_after_the_noun(argv: list[str]) -> None:
    args = parse(*argv)
    assert (args.home, args.json) == ("H", True)


def test_home_and_json_have_defaults() -> None:
    args = parse("job", "list")
    assert (args.home, args.json) == (None, False)


def test_only_wanted_nouns_have_verbs() -> None:
    assert build_parser({"job"}).parse_args(["job", "run", "nightly"]).name == "nightly"
    with pytest.raises(UsageError):
        build_parser({"job"}).parse_args(["session", "list"])


def test_machines_can_be_repeated() -> None:
    args = parse("job", "create", "n", "--hypervisor", "h", "--repository", "r", "--machine", "a*", "--machine", "b")
    assert args.machines == ["a*", "b"]
    assert (args.block_size, args.compression, args.quiesce) == (None, None, False)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["job"],
        ["nonsense"],
        ["job", "run"],
        ["job", "schedule", "n"],
        ["job", "schedule", "n", "--daily", "22:00", "--none"],
        ["job", "create", "n", "--hypervisor", "h", "--repository", "r"],
        ["restore", "disk", "P", "D", "--output", "f", "--format", "vdi"],
        ["job", "list", "--jso"],
        ["credential", "add", "n", "--username", "u", "--password", "secret"],
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: vbrcore")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("noun", NOUNS)
def test_every_help_begins_with_examples_that_parse(noun: str) -> None:
    def check(parser: argparse.ArgumentParser) -> None:
        assert parser.format_help().startswith("examples:\n  vbrcore ")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    check(child)

    [nouns] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    check(nouns.choices[noun])


def test_every_example_parses() -> None:
    def examples(parser: argparse.ArgumentParser) -> list[str]:
        found = list(getattr(parser, "examples", ()))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    found += examples(child)
        return found

    lines = examples(build_parser())
    assert len(lines) > 50
    for line in lines:
        command = line.split(" | ", maxsplit=1)[0].split(" > ", maxsplit=1)[0]
        assert parse(*shlex.split(command)).run


@pytest.mark.parametrize("argv", [["--help"], ["job", "--help"], ["job", "create", "--help"], ["restore", "--help"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys\nfrom vbrcore.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'msgspec', 'rich', 'shtab', 'asyncio', 'http', 'vbrcore.api.types', 'vbrcore.model.errors'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("examples:")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4096", 4096), ("1K", 1024), ("1.5G", 1610612736), ("512MiB", 536870912), ("2 TB", 2199023255552), ("0", 0)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert values.size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1.G", "1e9", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidValue, match="no size"):
        values.size_bytes(text)


@pytest.mark.parametrize(("text", "length_s"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)])
def test_durations(text: str, length_s: int) -> None:
    assert values.duration_s(text) == length_s


@pytest.mark.parametrize("text", ["", "15", "0m", "-5m", "1.5h", "m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(InvalidValue, match="no duration"):
        values.duration_s(text)


def test_pairs() -> None:
    assert values.pairs(["uri=qemu+ssh://h/system?a=b", "path="], "--set") == {
        "uri": "qemu+ssh://h/system?a=b",
        "path": "",
    }
    for wrong in (["path"], ["=x"], ["a=1", "a=2"]):
        with pytest.raises(InvalidValue, match="--set"):
            values.pairs(wrong, "--set")


def test_paths_among_settings_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"path": "a/../b", "scratch_directory": "s", "uri": "qemu:///system", "name": "x", "key_file": "/k"}
    assert paths.with_absolute_paths(settings) == {
        "path": f"{tmp_path}/a/../b",
        "scratch_directory": f"{tmp_path}/s",
        "uri": "qemu:///system",
        "name": "x",
        "key_file": "/k",
    }


def test_secret_files_lose_one_newline(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content in (b" s p \n", b" s p \r\n", b" s p "):
        file.write_bytes(content)
        assert paths.secret_file(str(file)) == " s p "
