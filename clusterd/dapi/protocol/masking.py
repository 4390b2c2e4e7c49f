"""Masks the cluster key in configurations that the API shows or takes (framework.md 5). The key leaves no node, and is
not lost when a user writes back a configuration that was shown masked."""

import re

from clusterd.settings import MASKED_KEY, Secret

_SPACE = rb"(?:\s|\\[nrt]){0,200}"
"""White space between the tags and the key, as JSON writes it. Bounded: 5 MB of it would take 700 MB to match."""
_MASKED = re.compile(rb"(<key>" + _SPACE + rb")" + re.escape(MASKED_KEY.encode()) + rb"(" + _SPACE + rb"<\\?/key>)")


def mask_key(answer: bytes, key: Secret) -> bytes:
    """Masks the key everywhere in the answer. It has letters and digits only, which JSON and XML do not escape."""
    return answer.replace(key.value, MASKED_KEY.encode()) if key.value else answer


def restore_key(request: bytes, key: Secret) -> bytes:
    """Replaces a masked `<key>` in a request with the text of a configuration by this node's own key."""
    return _MASKED.sub(lambda found: found[1] + key.value + found[2], request) if key.value else request
