"""The documents say what the code does: commands, errors and hooks are all in them, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from vbrcore.plugins import api, hooks, mover

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def test_commands_and_errors_are_documented_as_they_are() -> None:
    command = [sys.executable, str(CHECKOUT / "script/generate_docs.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_a_plugin_implements_is_documented() -> None:
    names = {name for name in vars(hooks.EventSpecs) if name.startswith("vbr_")}
    for module in (api, mover):
        for kind in vars(module).values():
            if isinstance(kind, type) and Protocol in kind.__bases__:
                names |= {name for name in (*vars(kind), *kind.__annotations__) if not name.startswith("_")}
    assert "take_snapshot" in names
    documented = set(re.findall(r"\w+", (CHECKOUT / "docs/plugins.md").read_text()))
    assert names - documented == set()


def anchors(document: Path) -> set[str]:
    """Return the anchors that a reader of the rendered document can jump to."""
    headings = re.findall(r"^#+ +(.+)$", CODE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", document.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_names_every_document() -> None:
    index = CHECKOUT / "docs/index.md"
    named = {(index.parent / link).resolve() for link in LINK.findall(index.read_text()) if "://" not in link}
    assert set((CHECKOUT / "docs").glob("*.md")) - named - {index} == set()


def test_decisions_have_a_number_of_their_own() -> None:
    numbers = [path.name[:4] for path in (CHECKOUT / "docs/adr").glob("*.md")]
    assert all(number.isdecimal() for number in numbers)
    assert len(numbers) == len(set(numbers))
