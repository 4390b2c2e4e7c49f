"""Other protocols on a cluster port."""

import pytest

from clusterd.wire.foreign import foreign_text, protocol_of
from clusterd.wire.frame import build_header


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"GET / HT", "HTTP"),
        (b"HTTP/1.1", "HTTP"),
        (b"SSH-2.0-", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"220 mail", "SMTP or FTP"),
    ],
)
def test_other_protocols_have_a_name(first: bytes, name: str) -> None:
    assert protocol_of(first) == name


@pytest.mark.parametrize("counter", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_frames_are_none_of_them(counter: int) -> None:
    assert protocol_of(build_header(counter, 120, "hello")[:8]) is None


def test_text_says_which_of_the_two_ports_is_no_cluster_port() -> None:
    assert foreign_text("SSH", is_ours=True) == "it speaks SSH, this is a cluster port"
    assert foreign_text("SSH", is_ours=False) == "this is no cluster port, it speaks SSH"
