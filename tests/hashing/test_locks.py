"""The lock between processes, which every change of a shared file takes."""

import os
import threading
from pathlib import Path

import pytest

from hashing.locks import lock, locked_directory


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def is_free(path: Path) -> bool:
    fd = opened(path)
    try:
        lock(fd, 0)
    except TimeoutError:
        return False
    finally:
        os.close(fd)
    return True


def test_locked_directory_keeps_others_out_until_the_block_ends(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with locked_directory(tmp_path):
            assert not is_free(tmp_path)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert is_free(tmp_path)


def test_a_waiting_task_is_called_between_attempts_and_gets_the_free_lock(tmp_path: Path) -> None:
    holder = opened(tmp_path)
    lock(holder)
    calls = []

    def on_wait() -> None:
        calls.append(is_free(tmp_path))
        if len(calls) == 2:
            os.close(holder)

    with locked_directory(tmp_path, on_wait):
        assert calls == [False, False]
        assert not is_free(tmp_path)


def test_without_patience_and_call_a_task_waits_for_the_lock(tmp_path: Path) -> None:
    taken = threading.Event()

    def wait() -> None:
        with locked_directory(tmp_path):
            taken.set()

    with locked_directory(tmp_path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not taken.wait(0.05)
    assert taken.wait(60)
    waiter.join()


def test_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        lock(opened(tmp_path))
        os.write(writer, b"1")
        threading.Event().wait(600)
        os._exit(0)
    try:
        os.read(reader, 1)
        assert not is_free(tmp_path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    assert is_free(tmp_path)
