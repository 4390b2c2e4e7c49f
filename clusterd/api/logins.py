"""Logins: checks whether a user's name and password belong together."""

import base64
from collections.abc import Callable

from clusterd.api.problem import Refused
from clusterd.listening.attempts import AttemptLimiter, PasswordChecks, TooManyLogins
from clusterd.messages.journal import AnyEvent, LoginEvent
from clusterd.users import LONGEST_PASSWORD, NAME, User

CHALLENGE = {"WWW-Authenticate": 'Basic realm="clusterd", charset="UTF-8"'}
LONGEST_HEADER = 4096


class Logins:
    """Checks names and passwords, one at a time."""

    def __init__(
        self,
        limiter: AttemptLimiter,
        users: Callable[[], dict[str, User]],
        clock: Callable[[], float],
        tell: Callable[[AnyEvent], None] = lambda event: None,
    ) -> None:
        """`users` may raise UserProblem; `clock` returns monotonic seconds; `tell` takes logins, for the journal."""
        self._tell = tell
        self.checks = PasswordChecks(limiter, clock)
        self._users = users

    async def user_of(self, authorization: str | None, address: str) -> User:
        """Returns the user of a Basic header, if the password is right. Raises Refused 401, 429; UserProblem."""
        name, password = basic_credentials(authorization)
        user = self._users().get(name)
        known = name if user is not None else ""  # else somebody may have typed a password there
        try:
            is_right = await self.checks.is_right(address, name, user, password)
        except TooManyLogins as refusal:
            if refusal.is_guessing:
                self._tell(LoginEvent(user=known, address=address, result="limited"))
            raise too_many(str(refusal), refusal.wait_s) from None
        self._tell(LoginEvent(user=known, address=address, result="ok" if is_right else "refused"))
        if user is None or not is_right:
            raise Refused(401, "the user's name or password is wrong", headers=CHALLENGE)
        return user


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """Returns name and password. Raises Refused 401."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic" or len(encoded) > LONGEST_HEADER:
        raise Refused(401, "a name and a password are needed (HTTP Basic)", headers=CHALLENGE)
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except ValueError:
        colon = ""
    if not colon or not NAME.fullmatch(name) or len(password) > LONGEST_PASSWORD:
        raise Refused(401, "the user's name or password is wrong", headers=CHALLENGE)
    return name, password


def too_many(detail: str, wait_s: float) -> Refused:
    return Refused(429, detail, headers={"Retry-After": str(max(1, round(wait_s)))})
