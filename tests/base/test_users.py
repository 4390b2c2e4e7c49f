"""Users of the REST API: the file has only hashes, one command at a time changes it, and changes are seen at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clusterd import users
from clusterd.users import (
    USERS_FILE,
    UserProblem,
    UsersFile,
    add_user,
    is_password,
    make_user,
    read_users,
    remove_user,
    set_role,
)

PASSWORD = "correct horse battery"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path


def add(root: Path, name: str = "op", password: str = PASSWORD, now: float = 1000.0) -> bool:
    return add_user(str(root), make_user(name, password, now, cost=2))


@pytest.mark.slow
def test_a_password_fits_its_own_hash_only_and_no_two_hashes_are_alike() -> None:
    one, other = (make_user("op", PASSWORD, 0) for _ in range(2))
    assert one.hash != other.hash
    assert PASSWORD not in repr(one)
    assert is_password(one, PASSWORD)
    assert not is_password(one, PASSWORD + " ")
    assert not is_password(None, PASSWORD)
    assert not is_password(one, "x" * 10_000_000)


def test_users_of_before_there_were_roles_are_admins_and_their_file_stays_as_it_was(root: Path) -> None:
    add(root)
    content = (root / USERS_FILE).read_text()
    assert "role" not in content, "an older version refuses what it does not know"
    assert read_users(str(root))["op"].is_admin
    set_role(str(root), "op", "reader")
    assert '"role": "reader"' in (root / USERS_FILE).read_text()
    assert not read_users(str(root))["op"].is_admin
    set_role(str(root), "op", "admin")
    assert (root / USERS_FILE).read_text() == content
    with pytest.raises(UserProblem, match="no user"):
        set_role(str(root), "nobody", "reader")
    (root / USERS_FILE).write_text(content.replace('"op"', '"op", "role": "king"'))
    with pytest.raises(UserProblem, match="damaged"):
        read_users(str(root))


def test_no_token_that_began_before_a_new_password_was_written_is_as_new_as_that(root: Path) -> None:
    """Tokens have whole seconds, and hashing takes part of one."""
    add(root, now=2000.0)
    assert not add_user(str(root), make_user("op", "another one", 2000.1, cost=2), clock=lambda: 2000.9)
    assert read_users(str(root))["op"].changed_at == 2001
    assert add_user(str(root), make_user("new", "another one", 2000.1, cost=2), clock=lambda: 2000.9)
    assert read_users(str(root))["new"].changed_at == 2000, "whoever is new has no earlier tokens"


def test_a_changed_file_is_seen_at_the_next_question(root: Path) -> None:
    file = UsersFile(str(root))
    assert file.users() == {}
    add(root)
    assert set(file.users()) == {"op"}
    before = file.users()["op"]
    assert not add(root, now=2000.0)
    assert file.users()["op"].changed_at == 2000 > before.changed_at
    remove_user(str(root), "op")
    assert file.users() == {}
    (root / USERS_FILE).unlink()
    assert file.users() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"users": 1}',
        b'{"users": [{"name": "op"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"users": []}' + b" " * users.MOST_FILE_BYTES,
    ],
    ids=["empty", "list", "object", "number", "half", "bytes", "deep", "large"],
)
def test_a_damaged_file_is_refused_and_kept(root: Path, content: bytes) -> None:
    (root / USERS_FILE).write_bytes(content)
    (root / USERS_FILE).chmod(0o640)
    with pytest.raises(UserProblem, match="is damaged"):
        read_users(str(root))
    with pytest.raises(UserProblem):
        add(root)
    assert (root / USERS_FILE).read_bytes() == content


@pytest.mark.parametrize(
    "changed",
    [
        {"cost": 2**30},
        {"cost": 3},
        {"cost": 0},
        {"block_size": 10_000},
        {"parallel": 0},
        {"hash": "short"},
        {"salt": "?"},
        {"name": "a b"},
        {"admin": True},
    ],
    ids=json.dumps,
)
def test_a_user_that_would_take_the_machine_down_is_refused(root: Path, changed: dict[str, Any]) -> None:
    add(root)
    content = json.loads((root / USERS_FILE).read_text())
    content["users"][0] |= changed
    (root / USERS_FILE).write_text(json.dumps(content))
    with pytest.raises(UserProblem):
        read_users(str(root))


def test_links_and_directories_are_no_file_of_users(root: Path) -> None:
    add(root)
    real = root / "elsewhere"
    (root / USERS_FILE).rename(real)
    (root / USERS_FILE).symlink_to(real)
    with pytest.raises(UserProblem, match="cannot be read"):
        read_users(str(root))
    (root / USERS_FILE).unlink()
    os.mkfifo(root / USERS_FILE, 0o640)
    with pytest.raises(UserProblem, match="is not a file"):
        read_users(str(root))


@pytest.mark.parametrize("mode", [0o644, 0o642, 0o641, 0o666])
def test_a_file_that_others_may_touch_is_refused_with_the_remedy(root: Path, mode: int) -> None:
    add(root)
    (root / USERS_FILE).chmod(mode)
    with pytest.raises(UserProblem, match="chmod 640"):
        read_users(str(root))
    (root / USERS_FILE).chmod(0o660)
    assert set(read_users(str(root))) == {"op"}


@pytest.mark.slow
def test_commands_at_once_lose_no_user(root: Path) -> None:
    program = (
        "import sys; from clusterd.users import add_user, make_user\n"
        "for n in range(10): add_user(sys.argv[1], make_user(f'{sys.argv[2]}{n}', 'correct horse', 0, cost=2))"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(root), letter]) for letter in "abcd"]
    assert [one.wait(60) for one in started] == [0] * 4
    assert len(read_users(str(root))) == 40


def test_there_is_an_end_to_how_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_USERS", 2)
    add(root, "a")
    add(root, "b")
    with pytest.raises(UserProblem, match="already"):
        add(root, "c")
    assert not add(root, "b")
    with pytest.raises(UserProblem, match="no user"):
        remove_user(str(root), "c")
