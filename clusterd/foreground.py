"""The copy of the log that a node in the foreground writes to its standard error: into a terminal, a file, a pipe or a
socket. Whoever is at the other end may stop reading; the node goes on."""

import os
import select
import socket
import stat


class Foreground:
    """Writes to a descriptor and never waits for its reader. Make it before privileges are dropped: a pipe of root's
    cannot be opened again afterwards."""

    def __init__(self, fd: int = 2) -> None:
        """Raises OSError if `fd` is not open."""
        self._given = self._fd = fd
        self._may_wait = False
        """It could not be opened again."""
        self._rest = b""
        self._socket: socket.socket | None = None
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif not stat.S_ISREG(kind):
            # Opened again, because not to wait is a matter of all who share what is open, as the caller's shell does.
            try:
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._may_wait = True

    def write(self, text: str) -> None:
        """Writes a line. Raises BlockingIOError if nobody reads and nothing of it was written; other OSError as it
        comes."""
        self._send_rest()
        self._rest = text.encode("utf-8", "backslashreplace")
        whole = len(self._rest)
        try:
            self._send_rest()
        except BlockingIOError:
            if len(self._rest) == whole:
                self._rest = b""
                raise

    def flush(self) -> None:
        """Nothing waits here but the end of a line of which a part was written."""

    def close(self) -> None:
        """Lets go of what was opened here."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._given:
            os.close(self._fd)

    def _send_rest(self) -> None:
        while self._rest:
            self._rest = self._rest[self._send(self._rest) :]

    def _send(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._may_wait:
            # What a pipe takes at once, and no more.
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            if not poll.poll(0):
                raise BlockingIOError
            data = data[: select.PIPE_BUF]
        return os.write(self._fd, data)
