"""A run directory that another program removes under a living node comes back, with the same board and sockets."""

import shutil
import socket
import stat
from pathlib import Path

import pytest

from clusterd.rundir import board_path, run_dir, sync_socket
from clusterd.supervisor.run_files import RunFiles, kept_dir
from clusterd.supervisor.sweep import remove_run_files
from ipc.board import Board


@pytest.fixture
def root(tmp_path: Path) -> str:
    Path(run_dir(str(tmp_path))).mkdir(parents=True)
    Board.create(board_path(str(tmp_path))).close()
    return str(tmp_path)


def looked(root: str, *, looks: int = 2) -> RunFiles:
    files = RunFiles(root)
    assert [files.look() for _ in range(looks)] == [False] * looks
    return files


@pytest.mark.parametrize("what", ["the directory", "its files"])
def test_removed_files_come_back_as_the_same_ones(root: str, what: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(sync_socket(root))
        listening.listen()
        board = Path(board_path(root))
        inode = board.stat().st_ino
        files = looked(root)
        if what == "the directory":
            shutil.rmtree(run_dir(root))
        else:
            for path in Path(run_dir(root)).iterdir():
                path.unlink()
        assert files.look()
        assert not files.look()
        assert board.stat().st_ino == inode
        assert stat.S_IMODE(Path(run_dir(root)).stat().st_mode) & 0o077 == 0 or what == "its files"
        client.connect(sync_socket(root))
        Board.open(str(board)).close()


def test_a_file_that_was_replaced_comes_back_as_it_was_last_and_a_removed_one_does_not(root: str) -> None:
    role, problem = Path(run_dir(root), "election.json"), Path(run_dir(root), "net.problem")
    role.write_text("old")
    problem.write_text("x")
    files = looked(root)
    problem.unlink()
    role.unlink()
    role.write_text("new")
    assert [files.look() for _ in range(2)] == [False, False]
    shutil.rmtree(run_dir(root))
    assert files.look()
    assert (role.read_text(), problem.exists()) == ("new", False)


def test_what_is_removed_file_by_file_is_not_forgotten_meanwhile(root: str) -> None:
    path = Path(sync_socket(root))
    path.write_text("")
    files = looked(root)
    path.unlink()
    assert not files.look(), "a program is removing one after the other"
    shutil.rmtree(run_dir(root))
    assert files.look()
    assert path.exists()


def test_without_the_second_names_it_says_what_to_do(root: str) -> None:
    files = looked(root)
    shutil.rmtree(Path(run_dir(root)).parent)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="clusterd restart"):
            files.look()


def test_a_stop_leaves_nothing_behind(root: str) -> None:
    looked(root)
    assert Path(kept_dir(root), "board").exists()
    remove_run_files(root)
    assert list(Path(run_dir(root)).parent.iterdir()) == []
