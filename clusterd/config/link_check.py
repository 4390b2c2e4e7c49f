"""Finds links in the synchronised directories that are not followed, for `check-config` and `start`. A master leaves
their targets out; on a worker the files never arrive."""

import os
import stat
from collections.abc import Iterable, Iterator

from hashing.errors import FileVanished, UnsafePath
from hashing.links import Links
from hashing.notes import explain
from hashing.rules import ItemRule, Rules, item_of

MOST_NAMED = 10
DO = "make it as root or as the daemon's owner, and list the directory it leads into in clusterd.link_targets"


def link_warnings(root: str, rules: Rules, trusted: Iterable[int] = ()) -> list[str]:
    """A line for each of the first few. `trusted`: the daemon's user, where that is not who asks."""
    links = Links(root, rules, trusted)
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []  # others say so
    try:
        found = dict(line for item in rules.items for line in _refused(links, rules, root_fd, item))
    finally:
        os.close(root_fd)
    lines = [f"{path} {why} and is left out: {DO}" for path, why in sorted(found.items())]
    more = len(lines) - MOST_NAMED
    return lines[:MOST_NAMED] + ([f"and {more} more links"] if more > 0 else [])


def _refused(links: Links, rules: Rules, root_fd: int, item: ItemRule) -> Iterator[tuple[str, str]]:
    waiting = [item.key.rstrip("/")]
    while waiting:
        path = waiting.pop()
        try:
            fd = links.directory(root_fd, path)
        except FileVanished:
            continue
        except (UnsafePath, OSError) as error:
            yield path, explain(error)
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    below = f"{path}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        if item.recursive:
                            waiting.append(below)
                    elif entry.is_symlink():
                        yield from _judge(links, rules, root_fd, item, below, waiting)
        except (OSError, UnicodeEncodeError):
            continue
        finally:
            os.close(fd)


def _judge(
    links: Links, rules: Rules, root_fd: int, item: ItemRule, path: str, waiting: list[str]
) -> Iterator[tuple[str, str]]:
    try:
        is_directory = stat.S_ISDIR(os.stat(f"{links.root}/{path}").st_mode)
    except OSError:
        is_directory = False
    if is_directory:
        if item.recursive:
            waiting.append(path)
        return
    if item_of(rules, path) is not item:
        return
    try:
        os.close(links.file(root_fd, item.key, path))
    except (FileVanished, UnsafePath, OSError) as error:
        yield path, explain(error)
