"""JSON of the distributed API in sync: inline, or a spool file that the receiver must remove."""

from clusterd.errors import ClusterError
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.sync.links.outgoing import read_segments
from clusterd.sync.ports.spool import Spool
from hashing.segment import Segment


class JsonBlobs:
    """Reads, writes and removes them."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def read(self, text: Text, limit: int) -> bytes:
        """Raises ClusterError 1000 above `limit`, OSError."""
        if not text.path:
            return text.payload
        if text.size > limit:
            raise ClusterError(1000, f"a request of {text.size} bytes is above the limit of {limit}")
        return read_segments([Segment(text.path, text.offset, text.size)])

    def write(self, content: bytes) -> Text:
        """Raises OSError."""
        if len(content) <= INLINE_BYTES:
            return Text(content)
        path = self._spool.new_path("text")
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError:
            self._spool.remove(path)  # what a full disk has taken of it
            raise
        return Text(b"", path, len(content))

    def remove(self, *texts: Text) -> None:
        self._spool.remove(*(text.path for text in texts if text.path))
