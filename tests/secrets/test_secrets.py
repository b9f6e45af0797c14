import copy
import pickle
from pathlib import Path

import pytest

from vbrcore.model.errors import DataCorrupt, PermissionRefused
from vbrcore.secrets.deployment import DeploymentKey
from vbrcore.secrets.secret import Secret, redact


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("pa55word")
    assert "pa55word" not in f"{secret} {secret!r} {secret!s} {[secret]} {secret:>20}"
    assert secret.reveal() == "pa55word"
    assert secret == Secret("pa55word") != Secret("other")
    for copied in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(secret)


def test_redaction_hides_every_appearance() -> None:
    secrets = [Secret("abc"), Secret("abcdef"), Secret("")]
    assert redact("x abcdef y abc z", secrets) == "x *** y *** z"


def test_what_was_sealed_comes_back_and_only_there(tmp_path: Path) -> None:
    key = DeploymentKey(tmp_path / "secret.key")
    sealed = key.seal(Secret("pässword"), "h1/password")
    assert b"ssword" not in sealed
    assert sealed != key.seal(Secret("pässword"), "h1/password")
    assert DeploymentKey(tmp_path / "secret.key").unseal(sealed, "h1/password") == Secret("pässword")
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    for damaged, place in ((sealed, "h2/password"), (sealed[:-1] + b"\0", "h1/password"), (b"", "h1/password")):
        with pytest.raises(DataCorrupt):
            key.unseal(damaged, place)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = DeploymentKey(tmp_path / "secret.key")
    sealed = key.seal(Secret("x"), "p")
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(PermissionRefused, match="0600"):
        key.unseal(sealed, "p")


def test_a_lost_or_damaged_key_is_named(tmp_path: Path) -> None:
    key = DeploymentKey(tmp_path / "secret.key")
    sealed = key.seal(Secret("x"), "p")
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(DataCorrupt, match="no deployment key"):
        key.unseal(sealed, "p")
    (tmp_path / "secret.key").unlink()
    with pytest.raises(DataCorrupt, match="missing"):
        key.unseal(sealed, "p")
