"""Logins: a user's name and password to whether they belong together, with a bound on how often one may guess."""

import asyncio
import base64
from collections.abc import Callable

import msgspec

from clusterd.addresses import network_of
from clusterd.api.problem import Refused
from clusterd.users import LONGEST_PASSWORD, NAME, User, is_password

CHALLENGE = {"WWW-Authenticate": 'Basic realm="clusterd", charset="UTF-8"'}
LONGEST_HEADER = 4096
MOST_KEYS = 20_000
HASHES_AT_ONCE = 2
HASHES_WAITING = 32
"""A password takes 0.2 s and 16 MiB to check: more would only be a way to keep the node busy."""


class Window(msgspec.Struct):
    """Attempts counted since `began`, seconds on the monotonic clock."""

    began: float
    count: int = 0


class AttemptLimiter:
    """Counts failed attempts by address and by user. A user that somebody guesses at can still log in from an address from
    which that user has logged in before. Holds numbers only."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._windows: dict[tuple[str, str], Window] = {}
        self._known: dict[tuple[str, str], None] = {}

    def begin(self, address: str, user: str, now: float) -> float:
        """Count an attempt. 0: it may be made; else the seconds after which one may be made again."""
        keys = self._keys(address, user)
        wait_s = max(self._wait_s(key, now) for key in keys)
        if wait_s <= 0:
            for key in keys:
                self._window(key, now).count += 1
        return max(0.0, wait_s)

    def withdraw(self, address: str, user: str, now: float) -> None:
        """Nobody has looked at the password of the attempt that was begun: it does not count."""
        for key in self._keys(address, user):
            window = self._window(key, now)
            window.count = max(0, window.count - 1)

    def _keys(self, address: str, user: str) -> list[tuple[str, str]]:
        place = network_of(address)
        keys = [("address", place)]
        return keys if (place, user) in self._known else [*keys, ("user", user)]

    def succeed(self, address: str, user: str, now: float) -> None:
        """The attempt that was begun was a good one, and does not count."""
        self.withdraw(address, user, now)
        place = network_of(address)
        self._known.pop((place, user), None)
        if len(self._known) >= MOST_KEYS:
            del self._known[next(iter(self._known))]
        self._known[place, user] = None

    def _wait_s(self, key: tuple[str, str], now: float) -> float:
        window = self._windows.get(key)
        if window is None or window.count < self._most:
            return 0.0
        return window.began + self._window_s - now

    def _window(self, key: tuple[str, str], now: float) -> Window:
        window = self._windows.get(key)
        if window is None or now - window.began >= self._window_s:
            self._windows.pop(key, None)
            if len(self._windows) >= MOST_KEYS:
                del self._windows[next(iter(self._windows))]
            window = self._windows[key] = Window(now)
        return window


class Logins:
    """Checks names and passwords, a few at a time."""

    def __init__(
        self, limiter: AttemptLimiter, users: Callable[[], dict[str, User]], clock: Callable[[], float]
    ) -> None:
        """`users` may raise UserProblem; `clock` gives monotonic seconds."""
        self._limiter = limiter
        self._users = users
        self._clock = clock
        self._turns = asyncio.Semaphore(HASHES_AT_ONCE)
        self._waiting = 0

    async def user_of(self, authorization: str | None, address: str) -> str:
        """The user of a Basic header, if the password is right. Raises Refused 401, 429; UserProblem."""
        name, password = basic_credentials(authorization)
        user = self._users().get(name)
        wait_s = self._limiter.begin(address, name, self._clock())
        if wait_s > 0:
            raise too_many("too many failed logins; wait before the next one", wait_s)
        is_looked_at = False
        try:
            if self._waiting >= HASHES_WAITING:
                raise too_many("too many logins at once", 1.0)
            self._waiting += 1
            try:
                async with self._turns:
                    is_looked_at = True
                    is_right = await asyncio.to_thread(is_password, user, password)
            finally:
                self._waiting -= 1
        finally:
            if not is_looked_at:
                self._limiter.withdraw(address, name, self._clock())
        if not is_right:
            raise Refused(401, "the user's name or password is wrong", headers=CHALLENGE)
        self._limiter.succeed(address, name, self._clock())
        return name


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """Name and password. Raises Refused 401."""
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
