"""A counter of what may still be begun. It refuses to go below zero or above its start."""

from ipc.errors import NoCredit


class Credit:
    """`limit` units, taken before something begins and returned when it has ended. One owner does both."""

    __slots__ = ("_used", "limit")

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"a credit of {limit}")
        self.limit = limit
        self._used = 0

    def take(self, count: int = 1) -> None:
        """Raises NoCredit, and takes nothing, if fewer than `count` are left."""
        if count < 0:
            raise ValueError(f"{count} cannot be taken")
        if count > self.free:
            raise NoCredit(f"{self._used} of {self.limit} are in use, {count} more are asked for")
        self._used += count

    def give(self, count: int = 1) -> None:
        """Raises ValueError, and changes nothing, if more is returned than was taken: a bug in the accounting."""
        if not 0 <= count <= self._used:
            raise ValueError(f"{count} come back of {self._used} in use")
        self._used -= count

    @property
    def used(self) -> int:
        return self._used

    @property
    def free(self) -> int:
        return self.limit - self._used
