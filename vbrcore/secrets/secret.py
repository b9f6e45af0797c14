"""A secret in memory: a value that no log, traceback or message shows by accident."""

from collections.abc import Iterable

HIDDEN = "***"


class _Hidden:
    """What all secrets have in common: nobody sees them by accident, and they stay in their process."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, _spec: str) -> str:
        return HIDDEN

    def __reduce__(self) -> str:
        raise TypeError("a secret is not copied out of its process")


class Secret(_Hidden):
    """A string whose text is only given out by `reveal`. Two secrets are equal if their texts are."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class SecretBytes(_Hidden):
    """The same for bytes, such as those of a key file."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def reveal(self) -> bytes:
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and other._data == self._data

    def __hash__(self) -> int:
        return hash(self._data)


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """Replace every appearance of a secret in a text that others will read, the longest first."""
    for plain in sorted((secret.reveal() for secret in secrets), key=len, reverse=True):
        if plain:
            text = text.replace(plain, HIDDEN)
    return text
