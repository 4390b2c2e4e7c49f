"""Tokens of the REST API: JSON Web Tokens that this node signs and reads itself. They do not cross nodes.

The wall clock may be set while a token lives. Therefore a token names the password that it was issued for (`ver`), and
its age is measured by the machine's boot clock (`clk`, `up`) until the machine is started again. `iat`, `nbf` and `exp`
are for clients, for the time after that, and for versions that do not know the others.
"""

from collections.abc import Callable
from typing import Any

import jwt

from clusterd.api.problem import Refused
from clusterd.clock import boot_us, clock_name
from clusterd.settings import Secret
from clusterd.users import User

ALGORITHM = "HS512"
ISSUER = "clusterd"
AUDIENCE = "clusterd REST API"
LONGEST_TOKEN = 4096
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="clusterd"'}
_CLAIMS = ["iss", "aud", "sub", "iat", "nbf", "exp"]
_NO_TIMES = {"verify_iat": False, "verify_nbf": False, "verify_exp": False}


class Tokens:
    """Issues and reads tokens. Times are seconds of the wall clock. `secret`: returns the current one; may raise
    StartFailure."""

    def __init__(self, secret: Callable[[], Secret], lifetime_s: int) -> None:
        self._secret = secret
        self._lifetime_s = lifetime_s

    def issue(self, user: User, now: float) -> str:
        """`user`: as its password was checked; `now`: when that began."""
        begin = int(now)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user.name,
            "iat": begin,
            "nbf": begin,
            "exp": begin + self._lifetime_s,
            "ver": user.version,
            "clk": clock_name(),
            "up": boot_us() // 1_000_000,
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
            claims = self._read(token, _NO_TIMES)
            if claims.get("clk") != clock_name():
                claims = self._read(token)
            elif boot_us() // 1_000_000 - claims["up"] >= claims["exp"] - claims["iat"]:
                raise jwt.ExpiredSignatureError
        except jwt.ExpiredSignatureError:
            raise _unauthorized("the token has expired") from None
        except (jwt.InvalidTokenError, ValueError):
            raise _unauthorized("the token is not valid") from None
        user = users.get(claims["sub"])
        if user is None or not _is_of(claims, user):
            raise _unauthorized("the token is not valid any more")
        return user

    def _read(self, token: str, options: dict[str, bool] | None = None) -> dict[str, Any]:
        return jwt.decode(
            token,
            self._secret().value,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": _CLAIMS, **(options or {})},  # type: ignore[arg-type]
        )


def _is_of(claims: dict[str, Any], user: User) -> bool:
    """Whether the token was issued for the user's present password. Those of older versions say only when."""
    if "ver" in claims:
        return bool(claims["ver"] == user.version)
    return bool(claims["iat"] >= user.changed_at)


def _unauthorized(detail: str) -> Refused:
    return Refused(401, detail, headers=CHALLENGE)
