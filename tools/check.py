"""`clusterd check-config`: the configuration's mistakes and warnings as lines."""

import msgspec

from clusterd.configuration import load
from clusterd.rights import too_many_rights
from clusterd.rundir import root_problem


class Checked(msgspec.Struct, frozen=True):
    """`lines`: every mistake, then every warning."""

    ok: bool
    lines: list[str]


def check(root: str) -> Checked:
    """Check the files of the node at `root`; changes nothing."""
    loaded = load(root)
    lines = [str(problem) for problem in loaded.problems]
    too_long = root_problem(root)
    if too_long is not None:
        lines.append(too_long)
    ok = not lines
    lines += [f"warning: {warning}" for warning in loaded.warnings]
    rights = too_many_rights(loaded.settings.clusterd.owner) if loaded.settings is not None else None
    if rights is not None:
        lines.append(f"warning: {rights}")
    if loaded.settings is not None and loaded.settings.cluster.disabled:
        lines.append("warning: the cluster is disabled (or there is no <cluster> block): start will refuse")
    return Checked(ok, lines)
