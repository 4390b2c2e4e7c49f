"""Tokens of the REST API: JSON Web Tokens that this node signs and reads itself. They do not cross nodes."""

from collections.abc import Callable

import jwt

from clusterd.api.problem import Refused
from clusterd.settings import Secret
from clusterd.users import User

ALGORITHM = "HS512"
ISSUER = "clusterd"
AUDIENCE = "clusterd REST API"
LONGEST_TOKEN = 4096
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="clusterd"'}
_CLAIMS = ["iss", "aud", "sub", "iat", "nbf", "exp"]


class Tokens:
    """Issues and reads tokens. Times are seconds of the wall clock. `secret`: returns the current one; may raise
    StartFailure."""

    def __init__(self, secret: Callable[[], Secret], lifetime_s: int) -> None:
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
        return jwt.encode(claims, self._secret().value, algorithm=ALGORITHM)

    def user_of(self, authorization: str | None, users: dict[str, User]) -> User:
        """Returns the user whose token an Authorization header carries. Raises Refused 401; a token is void when its
        user was deleted or has a new password since."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("a token is needed: get one from POST /security/user/authenticate; /docs shows how")
        if len(token) > LONGEST_TOKEN:
            raise _unauthorized("the token is not valid")
        try:
            claims = jwt.decode(
                token,
                self._secret().value,
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
