"""What systemd shows of a node that serves: what it is, whether it leads in an election, and its verdict."""

from clusterd.leadership import Leadership
from clusterd.settings import Settings
from clusterd.supervisor.notify import Notifier
from ipc.board import VERDICTS, Board

MONITOR = "monitor"


class StatusLine:
    """The supervisor owns it."""

    def __init__(self, notifier: Notifier, board: Board) -> None:
        self._notifier = notifier
        self._board = board
        self._told = ""

    def ready(self, settings: Settings) -> None:
        """The node serves (also after a reload, which systemd waits for)."""
        self._told = self._text(settings)
        self._notifier.ready(self._told)

    def look(self, settings: Settings) -> None:
        """Tells what has changed; others may have told something else meanwhile only before `ready`."""
        text = self._text(settings)
        if text != self._told:
            self._told = text
            self._notifier.changing(text)

    def _text(self, settings: Settings) -> str:
        cluster = settings.cluster
        text = f"{settings.role_text} {cluster.node_name} of cluster {cluster.name}"
        if settings.has_election and settings.is_master and not Leadership(self._board, settings).holds():
            return f"{text} waits for the lease of the election and serves nobody"
        verdict = self._verdict()
        return f"{text}: {verdict}" + (", see clusterd status" if verdict != "OK" else "") if verdict else text

    def _verdict(self) -> str:
        """The first word of `clusterd status`; empty where no process knows it."""
        try:
            row = self._board.row(MONITOR)
        except KeyError:  # a node without that process
            return ""
        number = row.get("verdict") if row.state == "ready" else 0  # what a dead one has said is old
        return VERDICTS[number] if number < len(VERDICTS) else ""
