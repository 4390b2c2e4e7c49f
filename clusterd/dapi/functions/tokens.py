"""Revokes tokens of this node's REST API (dapi.md 8.2). On a node without that API there is nothing to do, and the
request succeeds.

Tokens of the stock API belong to the framework; a request revokes both (docs/protocol/framework.md, section 6).
"""

from clusterd.dapi.protocol.actions import REVOKE_TOKENS
from clusterd.dapi.protocol.registry import Call, NoArguments, Registry
from clusterd.token_secret import replace_secret
from clusterd.wire.results import WireException

registry = Registry()


@registry.function("wazuh.core.security", "revoke_tokens", checks_daemons=False, needs=())
def revoke_tokens(call: Call, given: NoArguments) -> dict[str, str]:
    """Asked between nodes after the settings of logins have changed."""
    _revoke(call)
    return {"result": "True"}


@registry.function("wazuh.security", "wrapper_revoke_tokens", checks_daemons=False, needs=(REVOKE_TOKENS,))
def wrapper_revoke_tokens(call: Call, given: NoArguments) -> dict[str, str]:
    """Asked for by a user."""
    _revoke(call)
    return {"message": "Tokens were successfully revoked"}


def _revoke(call: Call) -> None:
    """Raises WireException 1000."""
    try:
        replace_secret(call.root)
    except OSError as failure:
        text = f"the secret of the API's tokens cannot be replaced: {failure.strerror}"
        raise WireException(1000, text) from None
