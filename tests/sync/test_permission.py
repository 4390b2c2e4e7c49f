"""Permission to check integrity (wire.md 5.8)."""

from clusterd.sync.integrity.permission import IntegrityPermissions


def test_a_worker_gets_one_leave_for_each_scan_of_the_master() -> None:
    permissions = IntegrityPermissions(1000)
    assert permissions.ask("w1", 0).granted
    assert not permissions.ask("w1", 1).granted
    permissions.scan_ended()
    assert permissions.ask("w1", 2).granted


def test_workers_do_not_take_each_others_leave() -> None:
    permissions = IntegrityPermissions(1000)
    assert permissions.ask("w1", 0).granted
    assert permissions.ask("w2", 0).granted


def test_a_worker_whose_check_runs_is_refused_until_it_ends() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.ask("w1", 0)
    permissions.begin("w1", "task", 0)
    permissions.scan_ended()
    assert not permissions.ask("w1", 5).granted
    permissions.end("w1", "task")
    permissions.scan_ended()
    assert permissions.ask("w1", 6).granted


def test_a_flag_held_for_too_long_is_released_and_logged() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.begin("w1", "task", 700)
    answer = permissions.ask("w1", 1700)
    assert not answer.granted
    permissions.scan_ended()
    answer = permissions.ask("w1", 1700.5)
    assert answer.granted
    assert answer.released
    assert permissions.is_free("w1", 2)


def test_the_end_of_an_old_check_does_not_free_the_flag_of_a_new_one() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.begin("w1", "old", 0)
    permissions.begin("w1", "new", 1)
    permissions.end("w1", "old")
    assert not permissions.is_free("w1", 2)
    permissions.end("w1", "new")
    assert permissions.is_free("w1", 2)


def test_a_notice_of_failure_frees_the_flag_whatever_check_holds_it() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.begin("w1", "task", 0)
    permissions.end("w1")
    assert permissions.is_free("w1", 2)


def test_a_link_that_ends_leaves_nothing_behind() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.begin("w1", "task", 0)
    permissions.end("w1")
    assert permissions.is_free("w1", 2)


def test_a_flag_held_for_too_long_blocks_nothing() -> None:
    permissions = IntegrityPermissions(1000)
    permissions.begin("w1", "task", 0)
    assert not permissions.is_free("w1", 1000)
    assert permissions.is_free("w1", 1000.5)
    assert not permissions.release_overdue("w1", 1000)
    assert permissions.release_overdue("w1", 1000.5)
    assert not permissions.release_overdue("w1", 1000.5)
