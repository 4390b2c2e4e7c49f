"""Tokens of the REST API: JSON Web Tokens that this node signs and reads itself. They do not cross nodes."""

import os
import secrets
import stat
from pathlib import Path

import jwt

from clusterd.api.problem import Refused
from clusterd.errors import StartFailure
from clusterd.settings import Secret
from clusterd.users import User
from hashing.atomic import FileOps
from hashing.write import write_atomic

SECRET_FILE = "etc/clusterd-api-token.key"
SECRET_BYTES = 64
ALGORITHM = "HS512"
ISSUER = "clusterd"
AUDIENCE = "clusterd REST API"
LONGEST_TOKEN = 4096
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="clusterd"'}
_CLAIMS = ["iss", "aud", "sub", "iat", "nbf", "exp"]


def load_secret(root: str) -> Secret:
    """The secret of this node's tokens; made when it is not there. Raises StartFailure that says what to do."""
    path = Path(root, SECRET_FILE)
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as failure:
        raise StartFailure(f"the secret of the API's tokens {path} cannot be read: {failure.strerror}") from None
    try:
        write_atomic(FileOps(), str(path), secrets.token_hex(SECRET_BYTES).encode(), 0o600)
        return _read(path)
    except OSError as failure:
        text = f"the secret of the API's tokens {path} cannot be made: {failure.strerror}"
        raise StartFailure(f"{text}; give the daemon's user the right to write in etc") from None


def _read(path: Path) -> Secret:
    """Raises OSError, and StartFailure for what is no secret of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
            raise StartFailure(f"{path} must be a file that only its owner may read: chmod 600")
        text = file.read(4 * SECRET_BYTES).strip()
    if len(text) < 2 * SECRET_BYTES:
        raise StartFailure(f"{path} is damaged; remove it, and callers will have to log in again")
    return Secret(text)


class Tokens:
    """Issues and reads tokens. Times are seconds of the wall clock."""

    def __init__(self, secret: Secret, lifetime_s: int) -> None:
        self._secret = secret
        self._lifetime_s = lifetime_s

    def issue(self, user: str, now: float) -> str:
        begin = int(now)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user,
            "iat": begin,
            "nbf": begin,
            "exp": begin + self._lifetime_s,
        }
        return jwt.encode(claims, self._secret.value, algorithm=ALGORITHM)

    def user_of(self, authorization: str | None, users: dict[str, User]) -> User:
        """The user whose token an Authorization header carries. Raises Refused 401; a token is void when its user is gone or
        has another password since."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("a token is needed: get one from POST /security/user/authenticate; /docs shows how")
        if len(token) > LONGEST_TOKEN:
            raise _unauthorized("the token is not valid")
        try:
            claims = jwt.decode(
                token,
                self._secret.value,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": _CLAIMS},
            )
        except jwt.ExpiredSignatureError:
            raise _unauthorized("the token has expired") from None
        except (jwt.InvalidTokenError, ValueError):
            raise _unauthorized("the token is not valid") from None
        user = users.get(claims["sub"])
        if user is None or claims["iat"] < user.changed_at:
            raise _unauthorized("the token is not valid any more")
        return user


def _unauthorized(detail: str) -> Refused:
    return Refused(401, detail, headers=CHALLENGE)
