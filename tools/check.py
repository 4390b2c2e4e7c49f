"""`clusterd check-config`: the configuration's mistakes and warnings as lines."""

import os
from pathlib import Path

import msgspec

from clusterd.adoption import notice
from clusterd.config.hooks import program_problem
from clusterd.config.link_check import link_warnings
from clusterd.config.loading import load
from clusterd.framework import location
from clusterd.rights import too_many_rights
from clusterd.role import ROLE_FILE
from clusterd.rundir import REAL_DAEMON, root_problem
from clusterd.settings import Settings
from clusterd.supervisor.code_access import access_warning, unreadable_code_of
from clusterd.supervisor.privileges import PrivilegeProblem, owner_to_become


class Checked(msgspec.Struct, frozen=True):
    """`lines`: every mistake, then every warning."""

    ok: bool
    lines: list[str]


def links_of(settings: Settings) -> list[str]:
    """Returns the links that a node with these settings does not follow."""
    try:
        owner = owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem:
        owner = None  # said at start
    return link_warnings(settings.root, settings.rules, () if owner is None else (owner.uid,))


def programs_of(settings: Settings) -> list[str]:
    """Returns why programs of `clusterd.hooks` and `clusterd.ha` cannot, or must not, be run by the daemon."""
    try:
        owner = owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem:
        return []  # said at start
    user = os.geteuid() if owner is None else owner.uid
    own = settings.clusterd
    programs = [("clusterd.hooks", hook.run) for hook in own.hooks]
    programs += [("clusterd.ha.on_promote", own.ha.on_promote), ("clusterd.ha.on_demote", own.ha.on_demote)]
    found = {(where, program_problem(run[0], user)): None for where, run in programs if run}
    return [f"{where}: {text}" for where, text in found if text]


def check(root: str) -> Checked:
    """Checks the files of the node at `root`; changes nothing."""
    loaded = load(root)
    lines = [str(problem) for problem in loaded.problems]
    too_long = root_problem(root)
    if too_long is not None:
        lines.append(too_long)
    owner_problem, owner_warning = _owner(loaded.settings) if loaded.settings is not None else ("", "")
    if owner_problem:
        lines.append(owner_problem)
    lines += programs_of(loaded.settings) if loaded.settings is not None else []
    framework = location.find(loaded.settings) if loaded.settings is not None else location.Found()
    if framework.is_wrong and loaded.settings is not None and loaded.settings.clusterd.framework.mode == "on":
        lines.append(framework.told)
    ok = not lines
    lines += [f"warning: {warning}" for warning in loaded.warnings]
    rights = too_many_rights(loaded.settings.clusterd.owner) if loaded.settings is not None else None
    if rights is not None:
        lines.append(f"warning: {rights}")
    if loaded.settings is not None:
        lines += [f"warning: {line}" for line in links_of(loaded.settings)]
    if loaded.settings is not None and loaded.settings.role is not None:
        lines.append(f"note: the role of this node is {loaded.settings.role_text}, see {ROLE_FILE}")
    if loaded.settings is not None and loaded.settings.cluster.disabled:
        lines.append("warning: the cluster is disabled (or there is no <cluster> block): start will refuse")
    if framework.is_wrong and framework.told not in lines:
        lines.append(f"warning: {framework.told}")
    if loaded.settings is not None:
        lines += [f"warning: {line}" for line in _replica_warnings(loaded.settings)]
    put_back = notice(root)
    if put_back:
        lines.append(f"warning: {put_back}")
    if owner_warning:
        lines.append(f"warning: {owner_warning}")
    return Checked(ok, lines)


def _replica_warnings(settings: Settings) -> list[str]:
    """Returns why this node cannot give or keep the replica that its configuration wants."""
    own = settings.clusterd
    if not own.ha.replica:
        return []
    found = []
    if own.store == "auto" and (Path(settings.root) / REAL_DAEMON).exists():
        found.append(f"clusterd.ha.replica needs clusterd's own store, and this node leaves it to {REAL_DAEMON}")
    if "replica" not in own.caps:
        found.append("clusterd.ha.replica is on and the capability replica is off (clusterd.caps): there is no replica")
    return found


def _owner(settings: Settings) -> tuple[str, str]:
    """Returns mistakes and warnings about the user that a node started as root switches to."""
    try:
        owner = owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem as failure:
        return str(failure), ""
    unreadable = unreadable_code_of(owner) if owner is not None else ""
    return "", access_warning(owner.name, unreadable) if owner is not None and unreadable else ""
