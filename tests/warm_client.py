"""A command of a shell script in a test, as `python -ISs warm_client.py SERVER MODULE ARGUMENTS`: it has MODULE run by
tests/warm_programs.py with its arguments, environment, directory and output, and ends as that ended. It imports next to
nothing, because it starts for each command."""

import _socket
import os
import posix
import sys

server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
server.connect(sys.argv[1])
words = [os.getcwd(), str(len(sys.argv) - 2), *sys.argv[2:]]
message = [*map(os.fsencode, words), *(name + b"=" + value for name, value in posix.environ.items())]
files = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (1, 2))
server.sendmsg([b"\0".join(message)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
os._exit(int(server.recv(16)))
