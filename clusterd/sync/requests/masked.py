"""Answers with a node's configuration, as they leave this node: whoever gave them, a program or node is told no cluster key."""

from clusterd.dapi.protocol.envelope import Envelope
from clusterd.dapi.protocol.masking import mask_key
from clusterd.dapi.protocol.policy import find
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.settings import Secret
from clusterd.sync.requests.blobs import JsonBlobs

LARGEST_CONFIGURATION = 8 << 20


def without_key(texts: JsonBlobs, envelope: Envelope, answer: Text, key: Secret) -> Text:
    """The answer to hand out; the one given is removed if it is another one. Raises ClusterError 1000, OSError."""
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
