"""The registry of our own functions for requests of the distributed API (dapi.md 8.2). A name that is not here has no
effect: nothing is imported, looked up or called for it.

A module of `clusterd/dapi/functions` creates its own Registry, and `functions/table.py` joins them. A function gets the
Call and its arguments, a validated struct; it returns Items, a dict, or a text, or raises WireException.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from clusterd.dapi.protocol.permissions import Need
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireCallable, WireException


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the arguments of a function: one field for each keyword that stock sends. `one_of`: a request must give
    one of these; without any it would be about everything there is."""

    one_of: ClassVar[tuple[str, ...]] = ()


class NoArguments(Arguments, frozen=True):
    """The arguments of a function that takes none."""


class Call(msgspec.Struct, frozen=True):
    """The context of a function of the pool, besides its arguments."""

    settings: Settings
    request: ApiRequest
    database: BlockingDatabase

    @property
    def node_name(self) -> str:
        return self.settings.cluster.node_name

    @property
    def root(self) -> str:
        return self.settings.root


class Cluster(Protocol):
    """The cluster's state, for functions of the sync process."""

    def list_nodes(self, arguments: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        """Returns the answer of get_nodes (dapi.md 1.6). Raises WireException."""
        ...

    def health(self, wanted: object) -> Awaitable[dict[str, Any]]:
        """Returns the answer of get_health (dapi.md 1.7). Raises WireException."""
        ...

    def ruleset_hashes(self) -> Awaitable[dict[str, str]]:
        """Returns the answer of get_hash (dapi.md 1.8)."""
        ...

    def is_password(self, asker: str, user: str, password: str) -> Awaitable[bool]:
        """Tells whether this is the user's password. Raises WireException 6000 after too many wrong guesses, by this
        asker or for this user."""
        ...


class SyncCall(msgspec.Struct, frozen=True):
    """The context of a function of the sync process. The function may wait; it must not compute for more than a few
    milliseconds. `asker`: the node, or the user of this machine, on whose link the request arrived."""

    settings: Settings
    request: ApiRequest
    cluster: Cluster
    asker: str = ""


Work = Callable[[Any, Any], Any]
W = TypeVar("W", bound=Work)


class RegisteredFunction(msgspec.Struct, frozen=True):
    """One entry. `place`: where it runs. `needs`: its permissions. `checks_daemons`: whether the daemons of
    `basic_services` must be up (dapi.md 3.7.2). policy.py decides in which types of request and from which origins it
    may be requested, and whether it is used where there is a framework."""

    module: str
    qualname: str
    place: Literal["pool", "sync"]
    work: Work
    arguments: type[Arguments]
    needs: tuple[Need, ...]
    checks_daemons: bool = True

    @property
    def shown(self) -> str:
        """The name in the log line of a request."""
        return self.qualname.rpartition(".")[2]


class Registry:
    """Entries by module and qualified name."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], RegisteredFunction] = {}

    def function(
        self, module: str, qualname: str, *, needs: tuple[Need, ...], checks_daemons: bool = True
    ) -> Callable[[W], W]:
        """Decorates a function. A plain one gets a Call and runs in a pool process; a coroutine function, about the
        cluster's state, gets a SyncCall and runs in the sync process. The annotation of its second parameter is its
        Arguments."""

        def register(work: W) -> W:
            annotation = list(work.__annotations__.values())[1]
            if not (isinstance(annotation, type) and issubclass(annotation, Arguments)):
                raise TypeError(f"{work.__name__} must declare its arguments as a struct")
            unknown = {need.argument for need in needs if need.argument} - set(annotation.__struct_fields__)
            if unknown:
                raise TypeError(f"{work.__name__} has no argument {', '.join(unknown)}")
            place: Literal["pool", "sync"] = "sync" if inspect.iscoroutinefunction(work) else "pool"
            self._functions[module, qualname] = RegisteredFunction(
                module, qualname, place, work, annotation, needs, checks_daemons
            )
            return work

        return register

    def __iter__(self) -> Iterator[RegisteredFunction]:
        return iter(self._functions.values())

    def join(self, *others: "Registry") -> "Registry":
        """Returns one registry with all entries. Raises ValueError for a name that two of them have."""
        joined = Registry()
        for registry in (self, *others):
            for key, function in registry._functions.items():
                if key in joined._functions:
                    raise ValueError(f"{'.'.join(key)} is registered twice")
                joined._functions[key] = function
        return joined

    def find(self, name: WireCallable) -> RegisteredFunction | None:
        """Returns the entry that a request names, None for any other name. Nothing is looked up elsewhere."""
        if name.qualname.rpartition(".")[2] != name.name:
            return None
        if name.wazuh is not None:
            return self._functions.get(("wazuh", f"Wazuh.{name.name}"))
        return self._functions.get((name.module, name.qualname))


class ArgumentsRefused(WireException):
    """Our function does not take these arguments; nothing was executed."""


def not_available(name: WireCallable, node: str, why: str = "") -> WireException:
    """Returns the answer for a function that is not available on this node (dapi.md 8.2), or cannot be answered now
    (`why`): a failed item of this node, not a failed request."""
    text = f"function not available: {name.module[:100]}.{name.qualname[:100]}{why and f' ({why})'}"
    return WireException(
        3009,
        text,
        wire_class="WazuhError",
        dapi_errors={node: {"error": text}},
        ids=[node],
    )


def arguments_of(function: RegisteredFunction, given: dict[str, Any]) -> Arguments:
    """Returns the validated arguments. Raises ArgumentsRefused 1000 that names the faulty one."""
    try:
        return msgspec.convert(given, function.arguments)
    except msgspec.ValidationError as problem:
        raise ArgumentsRefused(1000, f"{function.shown}: {problem}") from None
