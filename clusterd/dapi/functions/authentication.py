"""Functions that the API of a stock worker calls on its master before it accepts a login or token (dapi.md 5.8).

The users are those of `clusterd api user` on the master. There is one role here, 1, which may do everything: our admins
have it. Our readers cannot use such an API, because we do not control what it allows besides the functions of this
table.
"""

import time
from typing import Any

from clusterd.dapi.protocol.registry import Arguments, Call, NoArguments, Registry, SyncCall
from clusterd.users import LONGEST_PASSWORD, NAME, User, UserProblem, read_users
from clusterd.wire.results import WireException

registry = Registry()
ROLE = 1
MODE = "black"
"""Everything that no policy denies is allowed (dapi.md 3.8)."""

POLICIES: dict[str, dict[str, str]] = {
    "agent:read": {"agent:id:*": "allow", "agent:group:*": "allow"},
    "cluster:read": {"node:id:*": "allow", "*:*:*": "allow"},
}
"""For askers in whose mode nothing is allowed at first: the permissions that clusterd nodes check."""

SKEW_S = 60
"""How far the clock of a worker may be ahead of ours, and the time of a change that our own clock has just written."""


class Credentials(Arguments, frozen=True):
    user: str
    password: str


class Roles(Arguments, frozen=True):
    """`auth_context` is set by a login on behalf of another user; such a login has no roles here."""

    user_id: str
    auth_context: dict[str, Any] | str | None = None


class Token(Arguments, frozen=True):
    """The content of a token. `token_nbf_time`: when it becomes valid, in seconds of the wall clock."""

    username: str
    roles: list[int]
    token_nbf_time: int
    run_as: bool = False
    origin_node_type: str = ""


@registry.function("api.authentication", "check_user_master", checks_daemons=False, needs=())
async def check_user_master(call: SyncCall, given: Credentials) -> dict[str, bool]:
    """Tells whether this is the user's password. Takes about 0.2 s, for unknown users too. Raises WireException 4000
    for a reader, 6000 for an asker that guesses."""
    if not NAME.fullmatch(given.user) or len(given.password) > LONGEST_PASSWORD:
        return {"result": False}
    return {"result": await call.cluster.is_password(call.asker, given.user, given.password)}


@registry.function("wazuh.rbac.preprocessor", "get_permissions", checks_daemons=False, needs=())
def get_permissions(call: Call, given: Roles) -> dict[str, list[int]]:
    """Returns the user's roles: the only role for an admin, none for a reader, an unknown user or a login on behalf of
    another user."""
    user = _users(call).get(given.user_id)
    is_admin = user is not None and user.is_admin and not given.auth_context
    return {"roles": [ROLE] if is_admin else []}


@registry.function("api.authentication", "get_security_conf", checks_daemons=False, needs=())
def get_security_conf(call: Call, given: NoArguments) -> dict[str, Any]:
    """Returns the lifetime of tokens, in seconds, and the mode of permissions."""
    return {"auth_token_exp_timeout": call.settings.clusterd.api.token_s, "rbac_mode": MODE}


@registry.function("api.authentication", "check_token", checks_daemons=False, needs=())
def check_token(call: Call, given: Token) -> dict[str, Any]:
    """Tells whether a token that a worker's API issued is still valid: its user exists and has not changed the password
    since, its role is ours, and it has not expired. An invalid token has no policies.

    A password that was set in our future was set before our clock was set back: then nobody knows which tokens are
    older, and those are good that have not expired."""
    user = _users(call).get(given.username)
    begin, now = given.token_nbf_time, time.time()
    is_valid = (
        user is not None
        and user.is_admin
        and not given.run_as
        and given.roles == [ROLE]
        and (begin >= user.changed_at or user.changed_at > now + SKEW_S)
        and begin - SKEW_S <= now < begin + call.settings.clusterd.api.token_s
    )
    return {"valid": is_valid, "policies": POLICIES if is_valid else {}}


def _users(call: Call) -> dict[str, User]:
    """Raises WireException 1000 when they cannot be read. The reason is not sent to a peer."""
    try:
        return read_users(call.root)
    except UserProblem:
        raise WireException(1000, "the users cannot be read") from None
