"""What every command asks first: may the caller look into the node's directory, and is there a node? Said in the same
words by all of them. Loads nothing."""

import os

NEEDED = (".", "etc", "queue/cluster", "var/run")
"""Directories below the root that a command looks into."""
RUN = "var/run/clusterd"


def closed_to_us(root: str) -> str | None:
    """Returns what to do where the caller may not look into the node's directories, None where that is no question."""
    return _closed(root, NEEDED)


def run_dir_closed_to_us(root: str) -> str | None:
    """The same of the directory with what the processes of a running node tell of themselves; it is closed to the
    group, too."""
    return _closed(root, (RUN,))


def _closed(root: str, needed: tuple[str, ...]) -> str | None:
    for relative in needed:
        path = os.path.normpath(os.path.join(root, relative))
        try:
            os.stat(os.path.join(path, "."))
        except PermissionError:
            return f"{_name_of_caller()} may not look into {path}: run this as root{_others(path)}"
        except OSError:
            continue
    return None


def not_the_nodes_user(root: str, owner: str) -> str | None:
    """Returns what to do where the node could not read a file that the caller makes, whatever its group may write.
    `owner`: the user that the node runs as where root starts it."""
    etc = f"{root}/etc"
    if os.geteuid() in (0, os.stat(etc if os.path.isdir(etc) else root).st_uid):
        return None
    if _name_of_caller() == f"the user {owner}" or _runs_the_node(root):
        return None
    return f"{_name_of_caller()} would make files that the node cannot read: run this as root, or as the node's user"


def _runs_the_node(root: str) -> bool:
    """Whether a node runs as the caller: in a container with any user id, etc belongs to root."""
    from clusterd.pidfile import pid_file_of, running_pid  # only for those who would be refused

    try:
        pid = running_pid(root)
        return pid is not None and os.stat(pid_file_of(root, pid)).st_uid == os.geteuid()
    except OSError:
        return False


def has_node(root: str) -> bool:
    """Whether there is a node's, or a manager's, directory tree."""
    return os.path.exists(f"{root}/etc/ossec.conf") or os.path.isdir(f"{root}/queue/cluster")


def no_node(root: str) -> str:
    """Returns what is said of a root without a node."""
    return f"there is no node at {root}. Make one with: clusterd --root {root} init ..., or give the right --root"


def _name_of_caller() -> str:
    import pwd  # here and below: only for those who are refused

    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"the user {os.geteuid()}"


def _others(path: str) -> str:
    """Returns who else but root may."""
    import grp
    import pwd

    try:
        found = os.stat(path)
        if found.st_gid and found.st_mode & 0o010:
            return f", or as a user of the group {grp.getgrgid(found.st_gid).gr_name}"
        return f", or as the user {pwd.getpwuid(found.st_uid).pw_name}" if found.st_uid else ""
    except (OSError, KeyError):
        return ""
