"""Passwords of users whom a worker's API, or a program, asks a master about (dapi.md 5.8)."""

import asyncio

from clusterd.listening.attempts import AttemptLimiter, PasswordChecks, TooManyLogins
from clusterd.sync.links.context import Context
from clusterd.users import UserProblem, UsersFile
from clusterd.wire.results import INTERNAL_ERROR, PERMISSION_ERROR, TOO_MANY_REQUESTS, WireException

ATTEMPTS_OF_A_NODE = 10
"""A node's API asks for many users: it may fail so many times as often as one user."""
REFUSED = 6000
READERS = "this user has the role reader, which only the REST API of clusterd itself knows"


class Passwords:
    """Owner of what is counted of each asker (a node, or a user of this machine) and each user, and of the thread that hashes."""

    def __init__(self, context: Context) -> None:
        own = context.settings.clusterd.api
        most = own.login_attempts
        self._context = context
        self._journal = context.journal(context.tag, "D API guard")
        self._users = UsersFile(context.settings.root)
        limiter = AttemptLimiter(most, own.login_window_s, most * ATTEMPTS_OF_A_NODE)
        self._checks = PasswordChecks(limiter, context.clock.monotonic)

    async def is_right(self, asker: str, name: str, password: str) -> bool:
        """Raises WireException 1000 when the users cannot be read, 4000 for a user who may only read: a worker's API knows no such
        role, 6000 when there were too many attempts."""
        try:
            user = self._users.users().get(name)
        except UserProblem:
            raise WireException(1000, "the users cannot be read", wire_class=INTERNAL_ERROR) from None
        try:
            is_right = await self._checks.is_right(asker, name, user, password)
        except TooManyLogins as refusal:
            if refusal.is_guessing:
                self._say(asker, refusal.wait_s)
            text = f"{refusal} ({refusal.wait_s:.0f} s)"
            raise WireException(REFUSED, text, wire_class=TOO_MANY_REQUESTS) from None
        if is_right and user is not None and not user.is_admin:
            raise WireException(4000, READERS, wire_class=PERMISSION_ERROR)
        return is_right

    def _say(self, asker: str, wait_s: float) -> None:
        """Until the time of these attempts is over. The name is not told: somebody may have typed a password there."""
        subject = f"logins through {asker}"
        text = f"Too many failed logins through {asker}, of one user or in all: refused for {wait_s:.0f} s."
        if self._context.troubles.begin(subject, text, self._journal):
            asyncio.get_running_loop().call_later(wait_s, self._context.troubles.end, subject)
