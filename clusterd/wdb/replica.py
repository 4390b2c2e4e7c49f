"""Asks this node's store about replicas (clusterd/messages/replica.py)."""

import os

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.replica import StoreAnswer, StoreRequest
from clusterd.rundir import replica_socket
from clusterd.wdb.stream import Stream


class ReplicaStore:
    """A connection a question: one that waits for a change holds up no other."""

    def __init__(self, root: str) -> None:
        self._path = replica_socket(root)

    @property
    def is_there(self) -> bool:
        """Whether the store has made its socket."""
        return os.path.exists(self._path)

    async def ask(self, request: StoreRequest, timeout_s: float) -> bytes:
        """The payload of the answer. Raises ClusterError 1000 with the reason."""
        try:
            async with Stream(self._path, timeout_s) as stream:
                answer = msgspec.msgpack.decode(await stream.ask(msgspec.msgpack.encode(request)), type=StoreAnswer)
        except TimeoutError:
            raise ClusterError(1000, f"this node's store did not answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as failure:
            raise ClusterError(1000, f"this node's store cannot be asked: {failure}") from None
        if answer.failure:
            raise ClusterError(1000, answer.failure)
        return answer.payload
