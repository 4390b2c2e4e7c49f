"""The secret of a node's tokens: made once, readable for its owner only, never replaced by surprise."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.api.problem import Refused
from clusterd.api.tokens import Tokens
from clusterd.errors import StartFailure
from clusterd.token_secret import SECRET_FILE, SecretFile, load_secret, replace_secret
from clusterd.users import make_user


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / SECRET_FILE


def loaded(path: Path) -> bytes:
    return load_secret(str(path.parent.parent)).value


def test_it_is_made_once_and_stays(path: Path) -> None:
    first = loaded(path)
    assert len(first) == 128
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loaded(path) == first
    path.unlink()
    assert loaded(path) != first


def _open(path: Path) -> None:
    path.chmod(0o640)


def _short(path: Path) -> None:
    path.write_bytes(b"a" * 127)


def _link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("spoil", [_open, _short, _link, _pipe])
def test_what_others_could_know_or_have_made_is_refused(path: Path, spoil: Callable[[Path], None]) -> None:
    secret = loaded(path)
    spoil(path)
    with pytest.raises(StartFailure) as refusal:
        loaded(path)
    assert str(path) in str(refusal.value)
    assert secret.decode() not in str(refusal.value)


def test_an_unwritable_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StartFailure, match="cannot be made"):
        load_secret(str(tmp_path))


def test_tokens_are_void_once_the_secret_is_replaced_or_removed(path: Path) -> None:
    root = str(path.parent.parent)
    user = {"ann": make_user("ann", "a-good-password", 0, cost=2)}
    tokens = Tokens(SecretFile(root).secret, 900)

    def is_good(token: str) -> bool:
        try:
            return tokens.user_of(f"Bearer {token}", user).name == "ann"
        except Refused:
            return False

    for revoke in (lambda: replace_secret(root), path.unlink):
        token = tokens.issue("ann", time.time())
        assert is_good(token)
        assert is_good(token)
        revoke()
        assert not is_good(token)
        assert is_good(tokens.issue("ann", time.time()))


def test_a_node_that_never_issued_one_gets_no_secret(path: Path) -> None:
    assert not replace_secret(str(path.parent.parent))
    assert not path.exists()


def test_a_secret_that_others_could_know_is_replaced_by_a_good_one(path: Path) -> None:
    first = loaded(path)
    path.chmod(0o644)
    assert replace_secret(str(path.parent.parent))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loaded(path) != first
