"""Masks the cluster key in configurations of nodes, in all requests and answers that pass this node. No caller learns
the key, and no caller destroys it by writing back what was shown."""

from clusterd.dapi.protocol.envelope import Envelope
from clusterd.dapi.protocol.masking import mask_key, restore_key
from clusterd.dapi.protocol.policy import find
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.settings import Secret
from clusterd.sync.requests.blobs import JsonBlobs

LARGEST_CONFIGURATION = 8 << 20


def without_key(texts: JsonBlobs, envelope: Envelope, answer: Text, key: Secret) -> Text:
    """Returns the answer to hand out, and removes the given one if it is another. Raises ClusterError 1000, OSError."""
    row = find(envelope.function)
    if row is None or not row.has_configuration:
        return answer
    try:
        content = texts.read(answer, LARGEST_CONFIGURATION)
        masked = mask_key(content, key)
        shown = answer if masked == content else texts.write(masked)
    except (ClusterError, OSError):
        texts.remove(answer)
        raise
    if shown is not answer:
        texts.remove(answer)
    return shown


def with_key(envelope: Envelope, request: bytes, key: Secret) -> bytes:
    """Returns the request to execute or to pass on, with the key. Every node of the cluster has the same key, and a
    stock node does not know masked keys."""
    row = find(envelope.function)
    return restore_key(request, key) if row is not None and row.changes and row.has_configuration else request
