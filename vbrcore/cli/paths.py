"""Paths on the command line: as the service, which has another working directory, can use them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_PATH_KEY = re.compile(r"(.*_)?(path|directory|file)")


def absolute(path: str) -> str:
    """Make a path absolute; links are not followed."""
    return str(Path(path).expanduser().absolute())


def with_absolute_paths(settings: Mapping[str, str]) -> dict[str, str]:
    """Make the values of settings named as paths absolute (`path`, `scratch_directory`, ...)."""
    return {key: absolute(value) if value and _PATH_KEY.fullmatch(key) else value for key, value in settings.items()}


def content(path: str, most_bytes: int) -> bytes:
    """The content of a file; of a longer one, one byte more than `most_bytes`."""
    with Path(path).expanduser().open("rb") as file:
        return file.read(most_bytes + 1)


def secret_file(path: str) -> str:
    """The content of a file that holds a secret, without the newline at its end."""
    return Path(path).expanduser().read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
