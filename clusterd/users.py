"""The users of the REST API: `etc/clusterd-api-users.json`, with scrypt hashes of their passwords, never the passwords.

Read by the api process at logins, and on a master by the pool for workers' logins (dapi.md 5.8); written by
`clusterd api user`.
"""

import base64
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from typing import Literal, get_args

import msgspec

from clusterd.errors import PlainFailure
from clusterd.rights import owner_for_daemon
from hashing.atomic import FileOps
from hashing.locks import locked_directory
from hashing.write import write_atomic

USERS_FILE = "etc/clusterd-api-users.json"
FILE_MODE = 0o640
MOST_FILE_BYTES = 1024 * 1024
MOST_USERS = 1000
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 256
"""Characters."""

SALT_BYTES = 16
HASH_BYTES = 32
# 16 MiB and about 0.2 s: what OWASP names as a minimum for scrypt with this memory.
COST, BLOCK_SIZE, PARALLEL = 2**14, 8, 5
MOST_MEMORY = 256 * 1024 * 1024


class UserProblem(PlainFailure):
    """The users cannot be read or changed like this. The text says why; there is never a password in it."""


Role = Literal["admin", "reader"]
"""Roles: one may do everything, the other may ask for what changes nothing and reveals no keys."""
ROLES: tuple[Role, ...] = get_args(Role)


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`salt`, `hash`: base64. `cost`, `block_size`, `parallel`: scrypt's n, r and p. `changed_at`: when the password
    was set, in wall-clock seconds; older tokens are void that do not say for which `version` they are. `role`: admin
    if the file does not say, as before there were roles."""

    name: str
    salt: str
    hash: str
    cost: int
    block_size: int
    parallel: int
    changed_at: int
    role: Role = "admin"

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def version(self) -> str:
        """Identifies this password of this user, and reveals nothing of it: the salt is new with each."""
        return hashlib.blake2b(f"{self.salt} {self.hash}".encode(), digest_size=12).hexdigest()


class _File(msgspec.Struct, frozen=True):
    users: list[User]


def password_problem(password: str) -> str | None:
    """Why this password is not accepted, or None."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        return f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    if not password.isprintable():
        return "a password has printable characters only"
    return None


def make_user(name: str, password: str, now: float, *, cost: int = COST) -> User:
    """Raises UserProblem for an invalid name or password. Takes about 0.2 s. `cost`: scrypt's n, a power of two."""
    if not NAME.fullmatch(name):
        raise UserProblem("a user's name has 1 to 64 of the characters A-Z a-z 0-9 _ . @ -")
    problem = password_problem(password)
    if problem is not None:
        raise UserProblem(problem)
    salt = secrets.token_bytes(SALT_BYTES)
    user = User(name, _encode(salt), "", cost, BLOCK_SIZE, PARALLEL, int(now))
    return msgspec.structs.replace(user, hash=_encode(_hash(user, password)))


_NOBODY = User("", "AAAAAAAAAAAAAAAAAAAAAA==", "", COST, BLOCK_SIZE, PARALLEL, 0)
"""Checked in place of a user that does not exist, so that a wrong name takes as long as a wrong password."""


def is_password(user: User | None, password: str) -> bool:
    """Whether this is the user's password; takes as long for None."""
    if len(password) > LONGEST_PASSWORD:
        return False
    asked = user or _NOBODY
    same = compare_digest(_encode(_hash(asked, password)), asked.hash)
    return same and user is not None


def read_users(root: str) -> dict[str, User]:
    """The users by name; empty without the file. Raises UserProblem for a file that is damaged, unreadable, or readable
    by everybody."""
    path = Path(root, USERS_FILE)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as failure:
        raise UserProblem(f"{path} cannot be read: {failure.strerror}") from None
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise UserProblem(f"{path} is not a file")
        if mode & stat.S_IRWXO:
            raise UserProblem(
                f"{path} is open to every user of this machine: chmod 640 {path}, and set the passwords anew"
            )
        content = file.read(MOST_FILE_BYTES + 1)
    try:
        if len(content) > MOST_FILE_BYTES:
            raise ValueError("too large")
        users = msgspec.json.decode(content, type=_File).users
        for user in users:
            _check(user)
    except (ValueError, msgspec.DecodeError, RecursionError):
        # The error must not quote the file's content: it holds hashes.
        raise UserProblem(f"{path} is damaged; move it away and add the users again") from None
    return {user.name: user for user in users}


class UsersFile:
    """The current users; the file is read again only after it changed."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._identity: tuple[int, ...] | None = None
        self._users: dict[str, User] = {}

    def users(self) -> dict[str, User]:
        """Raises UserProblem."""
        identity = _identity(Path(self._root, USERS_FILE))
        if identity is None or identity != self._identity:
            self._users = read_users(self._root)
            self._identity = identity
        return self._users


def add_user(root: str, user: User, role: Role | None = None, *, clock: Callable[[], float] | None = None) -> bool:
    """Adds or replaces the user; True if it is new. `role`: None keeps the earlier role, or takes that of `user`.
    `clock`: tokens of a replaced user are void if they begin before the next second of this clock, new ones too; they
    have whole seconds. Raises UserProblem, OSError."""

    def add(users: dict[str, User]) -> bool:
        old = users.get(user.name)
        if old is None and len(users) >= MOST_USERS:
            raise UserProblem(f"there are {MOST_USERS} users already")
        changed_at = user.changed_at if old is None or clock is None else int(clock()) + 1
        kept = (user if old is None else old).role
        users[user.name] = msgspec.structs.replace(user, role=role or kept, changed_at=changed_at)
        return old is None

    return _change(root, add)


def set_role(root: str, name: str, role: Role) -> None:
    """Changes the role from the next request on. Raises OSError, and UserProblem for an unknown user."""

    def change(users: dict[str, User]) -> bool:
        if name not in users:
            raise UserProblem(f"there is no user {name!r}")
        users[name] = msgspec.structs.replace(users[name], role=role)
        return True

    _change(root, change)


def remove_user(root: str, name: str) -> None:
    """Raises OSError, and UserProblem for an unknown user."""

    def remove(users: dict[str, User]) -> bool:
        if users.pop(name, None) is None:
            raise UserProblem(f"there is no user {name!r}")
        return True

    _change(root, remove)


def _change(root: str, change: Callable[[dict[str, User]], bool]) -> bool:
    with locked_directory(Path(root, "etc")):
        users = read_users(root)
        outcome = change(users)
        content = msgspec.json.format(msgspec.json.encode(_File(list(users.values()))), indent=2) + b"\n"
        path = Path(root, USERS_FILE)
        write_atomic(FileOps(), str(path), content, FILE_MODE)
        if os.geteuid() == 0:
            # A command run by root must not take the file away from the daemon.
            os.chown(path, *owner_for_daemon(path.parent), follow_symlinks=False)
        return outcome


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check(user: User) -> None:
    """Raises ValueError for parameters that would exhaust the machine, or that scrypt refuses."""
    memory = 128 * user.cost * user.block_size
    if user.cost < 2 or user.cost & (user.cost - 1) or not 1 <= user.block_size <= 64 or not 1 <= user.parallel <= 64:
        raise ValueError("parameters of scrypt")
    if memory > MOST_MEMORY // 2 or not NAME.fullmatch(user.name):
        raise ValueError("parameters of scrypt")
    if len(base64.b64decode(user.hash, validate=True)) != HASH_BYTES:
        raise ValueError("hash")
    base64.b64decode(user.salt, validate=True)


def _hash(user: User, password: str) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=base64.b64decode(user.salt),
        n=user.cost,
        r=user.block_size,
        p=user.parallel,
        maxmem=MOST_MEMORY,
        dklen=HASH_BYTES,
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
