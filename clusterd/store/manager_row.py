"""Agent 000 is the node itself. A stock manager writes its row at start. Without a version in it, a stock API counts
every agent as outdated; without a node name it asks no node about it."""

import os
import platform
import socket
import sqlite3

FIRST_NAME = "localhost"
"""The manager's name in a database that no program has filled yet."""


def write_manager(connection: sqlite3.Connection, node_name: str, version: str) -> None:
    """Writes this node's name and version (such as `4.14.1`) into the row. Facts about the system that another program
    has found stay."""
    host = socket.gethostname()
    known = {name: value for name, value in _system().items() if value}
    system = "".join(f", {name} = ifnull({name}, :{name})" for name in known)
    connection.execute(
        "update agent set version = :version, node_name = :node, manager_host = :host,"
        f" name = case name when '{FIRST_NAME}' then :host else name end{system} where id = 0",
        {"version": f"Wazuh v{version}", "node": node_name, "host": host} | known,
    )


def _system() -> dict[str, str]:
    """The columns about the system that this machine provides."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    number = release.get("VERSION_ID", "")
    major, _, minor = number.partition(".")
    kernel = os.uname()
    return {
        "os_name": release.get("NAME", ""),
        "os_version": release.get("VERSION", number),
        "os_major": major,
        "os_minor": minor,
        "os_codename": release.get("VERSION_CODENAME", ""),
        "os_platform": release.get("ID", ""),
        "os_uname": f"{kernel.sysname} |{kernel.nodename} |{kernel.release} |{kernel.version} |{kernel.machine}",
        "os_arch": kernel.machine,
    }
