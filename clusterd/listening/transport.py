"""Transports that are being made for a connected socket."""

import contextlib
import socket


def give_up(connected: socket.socket) -> None:
    """Makes `create_connection` and `connect_accepted_socket` fail soon, in the middle of a TLS handshake too, or ends
    the transport that they have just made. To cancel them is no way: uvloop then closes a transport whose protocol it
    may have connected already, and never tells the protocol that the connection is lost."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
