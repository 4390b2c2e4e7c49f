"""The master's decision on a hello (wire.md 1.4 with W5 to W8). Pure; nothing is registered here."""

from collections.abc import Mapping

import msgspec

from clusterd.errors import ClusterError
from clusterd.names import node_name_problem
from clusterd.settings import VersionRule
from clusterd.wire.payloads import Hello, parse_hello
from clusterd.wire.results import shorten

MAX_WORD = 128
_MINOR_PARTS = 2


class NotAdmitted(ClusterError):
    """A refused hello. `node`: the name in it, empty if that cannot be shown; `both`: the reason with the node's value
    and ours, for the master's operator."""

    def __init__(self, code: int, extra: str | None = None, *, node: str = "", both: str = "") -> None:
        super().__init__(code, extra)
        self.node = node
        self.both = both or (extra or "")


class HelloRules(msgspec.Struct, frozen=True):
    """What this master requires of a worker."""

    master_name: str
    cluster_name: str
    version: str
    version_rule: VersionRule


def check_hello(payload: bytes, rules: HelloRules, registered: Mapping[str, str], own_name: str = "") -> Hello:
    """Returns the hello of a worker that may join. The first failed check decides; nothing is registered before all
    have passed.

    `registered`: connected workers, name to address. `own_name`: this link's name from an earlier hello, which it keeps
    for life (W6). Raises NotAdmitted 1000 and 3028 to 3031, to be sent back as `err`."""
    try:
        hello = parse_hello(payload)
    except ClusterError as malformed:
        raise NotAdmitted(malformed.code, malformed.extra) from None
    problem = node_name_problem(hello.name)
    if problem is not None:
        raise NotAdmitted(1000, problem)
    name = hello.name
    if max(len(hello.node_type), len(hello.version)) > MAX_WORD or not (hello.node_type + hello.version).isprintable():
        text = f"a node's type and version are printable words of at most {MAX_WORD} characters"
        raise NotAdmitted(1000, text, node=name)
    if own_name and name != own_name:
        raise NotAdmitted(1000, f"this connection belongs to {own_name}; a node says hello once", node=name)
    if name in registered:
        both = f"the node at {registered[name]} is connected under this name: give one of them another node_name"
        raise NotAdmitted(3028, name, node=name, both=both)
    if name == rules.master_name:
        raise NotAdmitted(3029, node=name, both="it has this master's own name: give it another node_name")
    if hello.cluster != rules.cluster_name:
        both = f'cluster name "{shorten(hello.cluster)}", ours is "{rules.cluster_name}"'
        raise NotAdmitted(3030, node=name, both=both)
    if not versions_match(rules.version_rule, rules.version, hello.version):
        raise NotAdmitted(3031, node=name, both=f"version {hello.version}, ours is {rules.version}")
    return hello


def versions_match(rule: VersionRule, ours: str, theirs: str) -> bool:
    """`exact` compares the texts as stock does; `minor` compares the first two numbers; `any` accepts all."""
    if rule == "any":
        return True
    if rule == "minor":
        return ours.split(".")[:_MINOR_PARTS] == theirs.split(".")[:_MINOR_PARTS]
    return ours == theirs
