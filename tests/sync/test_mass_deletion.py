"""A worker deletes most of its files only after the master has asked twice (docs/protocol/quirks.md C7)."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.messages.packages import PackageOpened
from clusterd.sync.integrity.applier import PackageApplier


class Lines:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return self.warnings.append if name == "warning" else lambda *_: None


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def applier(lines: Lines) -> PackageApplier:
    """The worker has 100 files and may delete half of them at once."""
    settings = SimpleNamespace(clusterd=SimpleNamespace(delete_confirm_share=0.5))
    manifests = SimpleNamespace(current=SimpleNamespace(files=100))
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: lines, tag="Worker w1", settings=settings, manifests=manifests, progress=[]
    )
    return PackageApplier(cast(Any, context))


def package(extra: int, digest: str) -> PackageOpened:
    return PackageOpened(missing=0, shared=0, extra=extra, ranges=0, extra_digest=digest, refused=[])


def test_half_of_the_files_may_go_at_once(applier: PackageApplier, lines: Lines) -> None:
    assert applier._may_delete(package(50, "a"))
    assert lines.warnings == []


def test_more_is_deleted_when_two_checks_in_a_row_ask_for_the_same(applier: PackageApplier, lines: Lines) -> None:
    assert not applier._may_delete(package(51, "a"))
    assert lines.warnings == [
        "The master asks to delete 51 of 100 files. They stay until the next check asks for the same."
    ]
    assert applier._may_delete(package(51, "a"))


def test_another_set_of_files_does_not_confirm_the_first(applier: PackageApplier) -> None:
    assert not applier._may_delete(package(51, "a"))
    assert not applier._may_delete(package(51, "b"))
    assert not applier._may_delete(package(51, "a"))
    assert applier._may_delete(package(51, "a"))


def test_harmless_check_between_two_doubtful_ones_resets_the_first(applier: PackageApplier) -> None:
    assert not applier._may_delete(package(51, "a"))
    assert applier._may_delete(package(0, "none"))
    assert not applier._may_delete(package(51, "a"))


def test_what_was_confirmed_once_is_not_confirmed_for_ever(applier: PackageApplier) -> None:
    assert not applier._may_delete(package(51, "a"))
    assert applier._may_delete(package(51, "a"))
    assert not applier._may_delete(package(51, "a"))
