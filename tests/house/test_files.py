"""The files of the house: short, finished, and at home on every machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LINES_MAX = 600
MARKS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b|\bbreakpoint\(\)")


def files(*endings: str) -> list[Path]:
    """Return what git tracks or would track, as paths relative to the checkout."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True).stdout.decode().split("\0")
    paths = [Path(name) for name in names if name and (CHECKOUT / name).is_file()]
    return [path for path in paths if not endings or path.suffix in endings]


def scripts() -> list[Path]:
    """Return the files that begin with `#!`."""
    return [path for path in files() if (CHECKOUT / path).read_bytes()[:2] == b"#!"]


def test_no_source_file_is_longer_than_the_cap() -> None:
    lengths = {str(path): len((CHECKOUT / path).read_text().splitlines()) for path in files(".py", ".tcss", "")}
    assert {path: length for path, length in lengths.items() if length > LINES_MAX and path != "LICENSE"} == {}


def test_nothing_is_left_for_later() -> None:
    found = []
    for path in files(".py", ".md", ".toml", ".tcss", ""):
        for number, line in enumerate((CHECKOUT / path).read_text().splitlines(), 1):
            if MARKS.search(line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


def test_no_file_names_a_place_of_one_machine() -> None:
    places = [f"{CHECKOUT}/", "/root" + "/.", "/wo" + "rk/", "/opt" + "/pypi"]
    found = []
    for path in files(".py", ".md", ".toml", ".in", ".txt", ".tcss", ".svg", ""):
        text = (CHECKOUT / path).read_text()
        found += [f"{path}: {place}" for place in places if place in text]
    assert found == []


def test_requirements_name_versions_and_hashes_but_no_registry() -> None:
    for path in files(".txt"):
        if path.parent.name != "requirements":
            continue
        text = (CHECKOUT / path).read_text()
        assert "://" not in text
        assert "index-url" not in text
        for requirement in re.split(r"\n(?=\S)", text.strip()):
            assert "==" in requirement.splitlines()[0]
            assert "--hash=sha256:" in requirement


def test_there_are_scripts() -> None:
    names = {str(path) for path in scripts()}
    assert {"script/setup", "script/test", "script/demo", ".ci/run"} <= names


@pytest.mark.parametrize("path", scripts(), ids=str)
def test_a_script_can_be_run_and_parsed(path: Path) -> None:
    text = (CHECKOUT / path).read_text()
    shell = re.match(r"#!/(?:usr/)?bin/(?:env )?(ba)?sh\b", text)
    assert (CHECKOUT / path).stat().st_mode & 0o111
    if shell:
        subprocess.run(["bash", "-n", CHECKOUT / path], check=True)
    else:
        assert "python" in text.splitlines()[0]
        ast.parse(text)
