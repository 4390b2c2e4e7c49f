"""Messages to systemd (sd_notify(3)): ready, reloading, stopping, and the watchdog."""

import os
import socket
import time
from collections.abc import Mapping

from clusterd.printable import printable


class Notifier:
    """Sends states to the socket of `NOTIFY_SOCKET`; without one it does nothing. The supervisor owns it.

    `watchdog_s`: how often `alive` must be called, half of what systemd allows; None without a watchdog. A state that
    cannot be sent is dropped: systemd draws its own conclusions, the node continues.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self.watchdog_s = _watchdog_s(environment, pid) if address else None
        if address[:1] in ("/", "@"):
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """The node serves (also after a reload)."""
        self._send(f"READY=1\nSTATUS={printable(status)}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def changing(self, status: str) -> None:
        """The node changes its role: it stays the same service with the same pid."""
        self._send(f"STATUS={printable(status)}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={printable(status)}")

    def alive(self) -> None:
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def fileno(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError:
            # No listener, or a full queue: no reason for a supervisor to stop.
            return


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Half of the watchdog's interval, if it watches this process."""
    try:
        if int(environment.get("WATCHDOG_PID", pid)) != pid:
            return None
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return interval_us / 2e6 if interval_us > 0 else None
