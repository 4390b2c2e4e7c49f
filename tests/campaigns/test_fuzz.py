"""Every reader reads or refuses any bytes, in bounded time. An input that showed a fault is kept in `corpus`."""

import random
import time
from collections.abc import Iterator

import pytest

from tests.campaigns.frame import MINUTES, running
from tests.campaigns.readers import CORPUS, READERS, Reader

SLOW_S = 5.0
"""An input of at most LARGEST bytes that takes longer is a fault, on any machine."""
LARGEST = 60_000
NUMBERS = [b"0", b"-1", b"1e999", b"99999999999999999999", b"18446744073709551616", b"NaN", b"00"]
TEXTS = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"../",
    b"\n",
    b"\r\n",
    b"%s%n",
    b"[" * 3000,
    b"{" * 3000,
]


def mutated(rng: random.Random, reader: Reader, corpus: list[bytes]) -> bytes:
    """Returns an input of the corpus, changed in a few places."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(8)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at:at] = rng.choice([*NUMBERS, *TEXTS, *reader.words])
        elif what == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif what == 3:
            data[at:at] = data[at : at + rng.randrange(1, 200)]
        elif what == 4:
            del data[at:]
        elif what == 5:
            data[at : at + 4] = rng.randbytes(4)
        elif what == 6:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            data[at:at] = data * rng.randrange(1, 4)
    return bytes(data[:LARGEST])


def complaint(reader: Reader, data: bytes) -> str:
    """Returns what was wrong with the reading, else an empty text."""
    began = time.process_time()
    try:
        reader.read(data)
    except reader.refuses:
        pass
    except Exception as bug:
        return f"{reader.name} raised {type(bug).__name__}: {bug!s:.200}"
    took = time.process_time() - began
    return f"{reader.name} took {took:.1f} s" if took > SLOW_S else ""


def faults(reader: Reader, rng: random.Random, until: float) -> Iterator[tuple[str, bytes]]:
    corpus = reader.corpus()
    while time.monotonic() < until:
        data = mutated(rng, reader, corpus)
        found = complaint(reader, data)
        yield found, data


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.name)
def test_inputs_that_once_showed_a_fault_are_harmless(reader: Reader) -> None:
    for data in reader.corpus():
        assert not complaint(reader, data)


@pytest.mark.stress
@pytest.mark.timeout(int(MINUTES * 60) + 300)
@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.name)
def test_any_bytes_are_read_or_refused(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """The minutes are divided among all readers."""
    with running(f"fuzz {reader.name}", capsys) as campaign:
        until = time.monotonic() + MINUTES * 60 / len(READERS)
        for fault, data in faults(reader, campaign.rng, until):
            campaign.counts["inputs"] += 1
            if fault:
                place = CORPUS / reader.name
                place.mkdir(parents=True, exist_ok=True)
                kept = place / f"{campaign.seed}-{campaign.counts['inputs']}"
                kept.write_bytes(data)
                pytest.fail(f"{fault}; the input is {kept}")
