"""The codec preserves every message; all other bytes raise BadMessage and nothing else."""

import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.messages import links, pool
from ipc.codec import Decoder, encode
from ipc.descriptor import Descriptor
from ipc.errors import BadMessage
from tests.sizes import examples

CHANNELS = {
    "net to sync": links.NetToSync,
    "sync to net": links.SyncToNet,
    "pool to sync": pool.PoolToSync,
    "sync to pool": pool.SyncToPool,
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that occurs in a message."""
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        bool: st.booleans(),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    if kind in simple:
        return simple[kind]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return st.one_of([values_of(one) for one in typing.get_args(kind)])
    if typing.get_origin(kind) is list:
        return st.lists(values_of(typing.get_args(kind)[0]), max_size=3)
    if typing.get_origin(kind) is tuple:
        return st.lists(values_of(typing.get_args(kind)[0]), max_size=3).map(tuple)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})


@pytest.mark.slow
@pytest.mark.parametrize("channel", CHANNELS)
def test_every_message_survives_the_codec(channel: str) -> None:
    union = CHANNELS[channel]
    decoder: Decoder[Any] = Decoder(union)

    @settings(max_examples=examples(150), deadline=None)
    @given(values_of(union))
    def survives(message: Any) -> None:
        assert decoder.decode(encode(message)) == message

    survives()


@pytest.mark.parametrize("channel", CHANNELS)
def test_other_bytes_are_bad_messages(channel: str) -> None:
    decoder: Decoder[Any] = Decoder(CHANNELS[channel])

    @settings(max_examples=examples(150), deadline=None)
    @given(st.binary(max_size=60))
    def refused_or_read(data: bytes) -> None:
        try:
            decoder.decode(data)
        except BadMessage:
            return

    refused_or_read()


@settings(max_examples=examples(100), deadline=None)
@given(values_of(pool.StartJob), st.data())
def test_a_cut_message_is_bad(message: pool.StartJob, data: st.DataObject) -> None:
    whole = encode(message)
    with pytest.raises(BadMessage):
        Decoder[pool.StartJob](pool.SyncToPool).decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_channel_understands_only_its_own_messages() -> None:
    with pytest.raises(BadMessage):
        Decoder[Any](pool.PoolToSync).decode(encode(links.WriteLog("INFO", "Master", "text")))
    with pytest.raises(BadMessage):
        Decoder[Any](links.NetToSync).decode(encode(pool.PoolHello(1, 1)))


def test_deep_nesting_is_a_bad_message() -> None:
    with pytest.raises(BadMessage):
        Decoder[Any](links.SyncToNet).decode(b"\x91" * 100_000 + b"\xc0")


def test_a_refusal_does_not_repeat_the_content() -> None:
    data = msgspec.msgpack.encode({"type": "release", "slabs": ["a secret"]})
    with pytest.raises(BadMessage) as caught:
        Decoder[Any](links.SyncToNet).decode(data)
    assert "secret" not in str(caught.value)
    assert "slabs" in str(caught.value)


def test_a_large_body_travels_as_a_small_message() -> None:
    body = [Descriptor(3, 0, 6_990_604, 2**64 - 1)]
    assert len(encode(links.PeerRequest(1, 2, "syn_i_w_m_p", body=body))) < 100
