"""The cluster key in configurations that the API shows or takes (framework.md 5): it leaves no node, and is not lost when somebody
writes back what was shown."""

import re

from clusterd.settings import MASKED_KEY, Secret

_SPACE = rb"(?:\s|\\[nrt])*"
"""Between the marks, as JSON writes it."""
_MASKED = re.compile(rb"(<key>" + _SPACE + rb")" + re.escape(MASKED_KEY.encode()) + rb"(" + _SPACE + rb"<\\?/key>)")


def mask_key(answer: bytes, key: Secret) -> bytes:
    """The answer without the key, wherever it stands in it: it has letters and digits only, which JSON and XML leave alone."""
    return answer.replace(key.value, MASKED_KEY.encode()) if key.value else answer


def restore_key(request: bytes, key: Secret) -> bytes:
    """A request with the text of a configuration, its `<key>` as this node has it where it was only shown masked."""
    return _MASKED.sub(lambda found: found[1] + key.value + found[2], request) if key.value else request
