"""What a node that several tests share logs in one of them."""

from tools.rig.nodes import RigNode


class NewLines:
    """What a node logs from now on."""

    def __init__(self, node: RigNode) -> None:
        self._path = node.root / "logs/cluster.log"
        self._begin = self._path.stat().st_size

    @property
    def text(self) -> str:
        return self._path.read_bytes()[self._begin :].decode()
