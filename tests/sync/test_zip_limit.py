"""The adaptive limit (wire.md 5.7), with its defaults: 1 GiB, 30 MiB, tolerance 0.2, 96 s."""

import pytest

from clusterd.settings import Communication
from clusterd.sync.ports.zip_limit import ZipLimit

GIB = 1073741824


def test_an_interrupted_sending_leaves_four_fifths_of_what_was_sent() -> None:
    limit = ZipLimit(Communication())
    assert limit.interrupted(100 * 1048576) == "Decreasing sync size limit to 80.00 MB."
    assert limit.current == pytest.approx(80 * 1048576)


def test_the_limit_never_falls_below_the_minimum() -> None:
    limit = ZipLimit(Communication())
    limit.interrupted(5)
    assert limit.current == 31457280


def test_quick_sendings_raise_it_by_a_quarter_up_to_the_maximum() -> None:
    limit = ZipLimit(Communication())
    limit.interrupted(GIB)
    assert limit.current == pytest.approx(GIB * 0.8)
    assert limit.sending_ended(95.9) == "Increasing sync size limit to 1024.00 MB."
    assert limit.current == GIB
    assert limit.sending_ended(1.0) is None


def test_slow_and_broken_transfers_leave_it_unchanged() -> None:
    limit = ZipLimit(Communication())
    limit.interrupted(0)
    before = limit.current
    assert limit.sending_ended(96.0) is None
    assert limit.sending_ended(float("inf")) is None
    assert limit.current == before
    assert limit.sending_ended(0.0) == "Increasing sync size limit to 37.50 MB."


def test_other_rules_of_a_reload_hold_for_a_limit_that_has_shrunk_and_for_one_that_has_not() -> None:
    whole, shrunk = ZipLimit(Communication()), ZipLimit(Communication())
    shrunk.interrupted(100 * 1048576)
    for limit in (whole, shrunk):
        limit.set_rules(Communication(max_zip_size_bytes=2 * GIB))
    assert (whole.current, shrunk.current) == (2 * GIB, 80 * 1048576)
    for limit in (whole, shrunk):
        limit.set_rules(Communication(max_zip_size_bytes=50 * 1048576))
        assert limit.current == 50 * 1048576
