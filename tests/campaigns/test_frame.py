"""What the campaigns' readers see (frame.py)."""

from pathlib import Path

from tests.campaigns.frame import Changed
from tools.rig.peer import wait_until


def test_no_change_of_a_file_is_missed(tmp_path: Path) -> None:
    """Neither one in place nor one by a rename, and of the same size: as soon as it is there, and until it is over."""
    path, changed = tmp_path / "file", Changed()
    path.write_bytes(b"old" * 1000)

    def content() -> bytes:
        found = changed.read(path)
        assert found is not None
        return found[1]

    for _ in range(3):
        assert content() == b"old" * 1000
        wait_until(lambda: changed.read(path) is None, 60, "it is known")
        with path.open("r+b", buffering=0) as file:
            file.write(b"new" * 500)
            assert content() == b"new" * 500 + b"old" * 500
            assert content() == b"new" * 500 + b"old" * 500, "it changed just now"
            file.write(b"new" * 500)
        assert content() == b"new" * 1000
        wait_until(lambda: changed.read(path) is None, 60, "it is known")
        beside = path.with_name("beside")
        beside.write_bytes(b"old" * 1000)
        beside.replace(path)
