"""Limits how often passwords may be guessed and how many are checked at a time, for the REST API and for logins of
other nodes."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from clusterd import scheduling
from clusterd.listening.addresses import network_of
from clusterd.users import User, is_password

MOST_KEYS = 20_000
HASHES_AT_ONCE = 1
HASHES_WAITING = 32
"""A password takes 0.2 s and 16 MiB to check: more would only be a way to keep the node busy. The api process has
one thread for it and sync another one: two passwords at a time on a node."""


class TooManyLogins(Exception):
    """Too many attempts: the password was not checked. `wait_s`: seconds until the next attempt is allowed."""

    def __init__(self, text: str, wait_s: float, *, is_guessing: bool = False) -> None:
        super().__init__(text)
        self.wait_s = wait_s
        self.is_guessing = is_guessing


class Window(msgspec.Struct):
    """Attempts counted since `began`, seconds on the monotonic clock."""

    began: float
    count: int = 0


class AttemptLimiter:
    """Counts failed attempts by place (an address, or a node) and by user. A user that somebody guesses at can still
    log in from a place from which that user has logged in before. Holds numbers only."""

    def __init__(self, most: int, window_s: float, most_of_place: int | None = None) -> None:
        self._most = {"user": most, "address": most_of_place or most}
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
        """The password of the begun attempt was not checked: the attempt does not count."""
        for key in self._keys(address, user):
            window = self._window(key, now)
            window.count = max(0, window.count - 1)

    def succeed(self, address: str, user: str, now: float) -> None:
        """The attempt that was begun was a good one, and does not count."""
        self.withdraw(address, user, now)
        place = network_of(address)
        self._known.pop((place, user), None)
        if len(self._known) >= MOST_KEYS:
            del self._known[next(iter(self._known))]
        self._known[place, user] = None

    def _keys(self, address: str, user: str) -> list[tuple[str, str]]:
        place = network_of(address)
        keys = [("address", place)]
        return keys if (place, user) in self._known else [*keys, ("user", user)]

    def _wait_s(self, key: tuple[str, str], now: float) -> float:
        window = self._windows.get(key)
        if window is None or window.count < self._most[key[0]]:
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


class PasswordChecks:
    """Checks passwords one after the other, in a thread: scrypt leaves the interpreter to others. A check whose
    asker is gone goes on to its end, so that nobody gets a second thread by going."""

    def __init__(self, limiter: AttemptLimiter, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._limiter = limiter
        self._clock = clock
        self._thread = ThreadPoolExecutor(HASHES_AT_ONCE, "passwords", initializer=scheduling.compute)
        self.turns = asyncio.Semaphore(HASHES_AT_ONCE)
        self._waiting = 0

    async def is_right(self, place: str, name: str, user: User | None, password: str) -> bool:
        """Whether `password` is that of `user`, who is called `name`; takes as long for None. Raises TooManyLogins."""
        wait_s = self._limiter.begin(place, name, self._clock())
        if wait_s > 0:
            raise TooManyLogins("too many failed logins; wait before the next one", wait_s, is_guessing=True)
        is_looked_at = False
        try:
            if self._waiting >= HASHES_WAITING:
                raise TooManyLogins("too many logins at once", 1.0)
            self._waiting += 1
            try:
                async with self.turns:
                    is_looked_at = True
                    loop = asyncio.get_running_loop()
                    is_right = await loop.run_in_executor(self._thread, is_password, user, password)
            finally:
                self._waiting -= 1
        finally:
            if not is_looked_at:
                self._limiter.withdraw(place, name, self._clock())
        if is_right:
            self._limiter.succeed(place, name, self._clock())
        return is_right
