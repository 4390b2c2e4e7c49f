"""Encodes and decodes messages as msgpack. Encoder and decoders are made once."""

from typing import Any, Generic, TypeVar

import msgspec

from ipc.errors import BadMessage

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Any) -> bytes:
    """Encodes a message of clusterd/messages."""
    return _encoder.encode(message)


class Decoder(Generic[M]):
    """Decodes the messages of one channel (a union of clusterd/messages). Raises BadMessage for anything else."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)

    def decode(self, data: bytes) -> M:
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise BadMessage(str(problem)) from problem
