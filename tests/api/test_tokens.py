"""The secret of a node's tokens: made once, readable for its owner only, never replaced by surprise."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest

from clusterd.api import tokens as tokens_module
from clusterd.api.problem import Refused
from clusterd.api.tokens import Tokens
from clusterd.errors import StartFailure
from clusterd.settings import Secret
from clusterd.token_secret import SECRET_FILE, SecretFile, load_secret, replace_secret
from clusterd.users import User, make_user


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
        token = tokens.issue(user["ann"], time.time())
        assert is_good(token)
        assert is_good(token)
        revoke()
        assert not is_good(token)
        assert is_good(tokens.issue(user["ann"], time.time()))


def test_a_node_that_never_issued_one_gets_no_secret(path: Path) -> None:
    assert not replace_secret(str(path.parent.parent))
    assert not path.exists()


def test_a_secret_that_others_could_know_is_replaced_by_a_good_one(path: Path) -> None:
    first = loaded(path)
    path.chmod(0o644)
    assert replace_secret(str(path.parent.parent))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loaded(path) != first


TOKENS = Tokens(lambda: Secret(b"0123456789abcdef" * 8), 900)
DAY_S = 86_400


def is_good(token: str, user: User) -> bool:
    try:
        return TOKENS.user_of(f"Bearer {token}", {user.name: user}) is user
    except Refused:
        return False


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S])
def test_a_clock_that_is_set_voids_no_token_and_none_outlives_its_time(
    monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Both the password and the token are of a time in which the clock was wrong."""
    now = time.time()
    ann = make_user("ann", "a-good-password", now + ahead_s, cost=2)
    early, late = TOKENS.issue(ann, now + ahead_s), TOKENS.issue(ann, now)
    assert is_good(early, ann)
    assert is_good(late, ann)
    since = tokens_module.boot_us()
    monkeypatch.setattr(tokens_module, "boot_us", lambda: since + 901_000_000)
    assert not is_good(early, ann)
    assert not is_good(late, ann)


def test_a_new_password_voids_the_tokens_of_the_old_one_whatever_the_clock_says() -> None:
    now = time.time()
    old, new = (make_user("ann", "a-good-password", at, cost=2) for at in (now, now - DAY_S))
    token = TOKENS.issue(old, now)
    assert is_good(token, old)
    assert not is_good(token, new)


def test_after_a_start_of_the_machine_the_wall_clock_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    ann = make_user("ann", "a-good-password", now + DAY_S, cost=2)
    good, expired, early = (TOKENS.issue(ann, now + at) for at in (0, -901, DAY_S))
    monkeypatch.setattr(tokens_module, "clock_name", lambda: "another boot")
    assert [is_good(one, ann) for one in (good, expired, early)] == [True, False, False]


def test_tokens_of_older_versions_are_good_until_they_expire_or_the_password_changes() -> None:
    now = int(time.time())
    claims = {"iss": tokens_module.ISSUER, "aud": tokens_module.AUDIENCE, "sub": "ann"}
    claims |= {"iat": now, "nbf": now, "exp": now + 900}
    token = jwt.encode(claims, b"0123456789abcdef" * 8, algorithm=tokens_module.ALGORITHM)
    before, after = (make_user("ann", "a-good-password", at, cost=2) for at in (now - 10, now + 10))
    assert is_good(token, before)
    assert not is_good(token, after)


def test_versions_from_before_the_claims_read_todays_tokens() -> None:
    now = int(time.time())
    token = TOKENS.issue(make_user("ann", "a-good-password", now, cost=2), now)
    read = jwt.decode(token, options={"verify_signature": False})
    assert [read[name] for name in ("sub", "iat", "nbf", "exp")] == ["ann", now, now, now + 900]
