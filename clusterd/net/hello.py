"""Who may join: the master's decision on a hello (wire.md 1.4 with W5 to W8). Pure; nothing is registered here."""

from collections.abc import Container

import msgspec

from clusterd.errors import ClusterError
from clusterd.names import node_name_problem
from clusterd.settings import VersionRule
from clusterd.wire.payloads import Hello, parse_hello

MAX_WORD = 128
_MINOR_PARTS = 2


class HelloRules(msgspec.Struct, frozen=True):
    """What this master asks of a worker."""

    master_name: str
    cluster_name: str
    version: str
    version_rule: VersionRule


def check_hello(payload: bytes, rules: HelloRules, registered: Container[str], own_name: str = "") -> Hello:
    """The hello of a worker that may join. The first check that fails decides; nothing is registered before all passed.

    `registered`: names of the workers that are connected. `own_name`: the name this link has from an earlier hello; a
    link has one name for its life (W6). Raises ClusterError 1000 and 3028 to 3031, to be sent back as `err`."""
    hello = parse_hello(payload)
    problem = node_name_problem(hello.name)
    if problem is not None:
        raise ClusterError(1000, problem)
    if max(len(hello.node_type), len(hello.version)) > MAX_WORD or not (hello.node_type + hello.version).isprintable():
        raise ClusterError(1000, f"a node's type and version are printable words of at most {MAX_WORD} characters")
    if own_name and hello.name != own_name:
        raise ClusterError(1000, f"this connection belongs to {own_name}; a node says hello once")
    if hello.name in registered:
        raise ClusterError(3028, hello.name)
    if hello.name == rules.master_name:
        raise ClusterError(3029)
    if hello.cluster != rules.cluster_name:
        raise ClusterError(3030)
    if not versions_match(rules.version_rule, rules.version, hello.version):
        raise ClusterError(3031)
    return hello


def versions_match(rule: VersionRule, ours: str, theirs: str) -> bool:
    """`exact` compares the texts as stock does; `minor` the first two numbers; `any` accepts all."""
    if rule == "any":
        return True
    if rule == "minor":
        return ours.split(".")[:_MINOR_PARTS] == theirs.split(".")[:_MINOR_PARTS]
    return ours == theirs
