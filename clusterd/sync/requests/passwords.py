"""Checks passwords of users for a worker's API or a local program, on a master (dapi.md 5.8)."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from clusterd.listening.attempts import AttemptLimiter, PasswordChecks, TooManyLogins
from clusterd.messages.base import Text
from clusterd.messages.journal import LoginEvent
from clusterd.sync.links.context import Context
from clusterd.sync.ports.tag_log import TagLog
from clusterd.users import UserProblem, UsersFile
from clusterd.wire.results import TOO_MANY_REQUESTS, WireException

ATTEMPTS_OF_A_NODE = 10
"""A node's API asks for many users, so it may fail this many times as often as one user."""
REFUSED = 6000
READERS = "this user has the role reader, which only the REST API of clusterd itself knows"
LONGEST_USER = 256
"""Names are told apart by this many characters."""


class Passwords:
    """Owns the counts of failures by asker (a node, or a user of this machine) and by user, and the thread that
    hashes."""

    def __init__(self, context: Context) -> None:
        own = context.settings.clusterd.api
        most = own.login_attempts
        self._context = context
        self._log = context.tag_log(context.tag, "D API guard")
        self._users = UsersFile(context.settings.root)
        limiter = AttemptLimiter(most, own.login_window_s, most * ATTEMPTS_OF_A_NODE)
        self._checks = PasswordChecks(limiter, context.clock.monotonic)

    async def is_right(self, asker: str, name: str, password: str) -> bool:
        """Raises WireException 1000 when the users cannot be read, 4000 for a user who may only read (a worker's API
        does not know that role), 6000 after too many attempts."""
        try:
            user = self._users.users().get(name)
        except UserProblem:
            raise WireException(1000, "the users cannot be read") from None
        known = name if user is not None else ""
        try:
            is_right = await self._checks.is_right(asker, name, user, password)
        except TooManyLogins as refusal:
            if refusal.is_guessing:
                _say(self._context, self._log, asker, refusal.wait_s)
                _tell(self._context, asker, known, "limited")
            raise _refused(str(refusal), refusal.wait_s) from None
        _tell(self._context, asker, known, "ok" if is_right else "refused")
        if is_right and user is not None and not user.is_admin:
            raise WireException(4000, READERS)
        return is_right


class FrameworkLogins:
    """Owns the counts of failures by asker and user where the framework knows the users (framework.md 2): by itself the
    framework checks any number of passwords for a holder of the cluster key."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = context.tag_log(context.tag, "D API guard")
        own = context.settings.clusterd.api
        self._limiter = AttemptLimiter(own.login_attempts, own.login_window_s, own.login_attempts * ATTEMPTS_OF_A_NODE)

    async def limited(self, asker: str, request: bytes, look: Callable[[], Awaitable[Text]]) -> Text:
        """Returns the answer of `look` to a `check_user_master`. Raises WireException 6000 after too many attempts,
        without looking, and what `look` raises."""
        clock = self._context.clock.monotonic
        name = _user_in(request)
        wait_s = self._limiter.begin(asker, name, clock())
        if wait_s > 0:
            _say(self._context, self._log, asker, wait_s)
            _tell(self._context, asker, "", "limited")
            raise _refused("too many failed logins; wait before the next one", wait_s)
        is_right: bool | None = None
        try:
            answer = await look()
            is_right = _is_right(answer)
        finally:
            if is_right is None:
                self._limiter.withdraw(asker, name, clock())
        if is_right is not None:
            _tell(self._context, asker, name if is_right else "", "ok" if is_right else "refused")
        if is_right:
            self._limiter.succeed(asker, name, clock())
        return answer


class _Arguments(msgspec.Struct):
    user: str = ""


class _PasswordRequest(msgspec.Struct):
    f_kwargs: _Arguments | None = None


class _Said(msgspec.Struct):
    result: bool | None = None


class _AnswerFields(msgspec.Struct):
    result: _Said | None = None


class _EncodedAnswer(msgspec.Struct):
    fields: _AnswerFields | None = msgspec.field(name="__object__", default=None)


class _PasswordAnswer(msgspec.Struct):
    result: _EncodedAnswer | None = msgspec.field(name="__wazuh_result__", default=None)


_requests = msgspec.json.Decoder(_PasswordRequest)
_answers = msgspec.json.Decoder(_PasswordAnswer)


def _user_in(request: bytes) -> str:
    try:
        given = _requests.decode(request).f_kwargs
    except msgspec.DecodeError:
        return ""
    return given.user[:LONGEST_USER] if given is not None else ""


def _is_right(answer: Text) -> bool | None:
    """None: no password was checked."""
    try:
        encoded = _answers.decode(answer.payload).result
    except msgspec.DecodeError:
        return None
    said = encoded.fields.result if encoded is not None and encoded.fields is not None else None
    return said.result if said is not None else None


def _say(context: Context, log: TagLog, asker: str, wait_s: float) -> None:
    """Refuses until the time of these attempts is over. The name is not logged: a user may have typed a password
    there."""
    subject = f"logins through {asker}"
    text = f"Too many failed logins through {asker}, of one user or in all: refused for {wait_s:.0f} s."
    if context.troubles.begin(subject, text, log):
        asyncio.get_running_loop().call_later(wait_s, context.troubles.end, subject)


def _tell(context: Context, asker: str, name: str, result: str) -> None:
    """Tells the journal. `name`: of an existing user, else empty: a user may have typed a password there."""
    context.events.tell(LoginEvent(user=name, through=asker, result=result))


def _refused(text: str, wait_s: float) -> WireException:
    return WireException(REFUSED, f"{text} ({wait_s:.0f} s)", wire_class=TOO_MANY_REQUESTS)
