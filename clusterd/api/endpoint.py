"""One endpoint as a row: everything that routing, validation, execution and the OpenAPI document need."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from clusterd.api.parameters import COMMON, Parameter
from clusterd.dapi.protocol.policy import find
from clusterd.dapi.protocol.request import ApiRequest, RequestType
from clusterd.wire.results import WireCallable

OCTETS = "application/octet-stream"
JSON = "application/json"
Answer = Literal["items", "object", "message"]
"""Affected items; an object with `data`; an object with `message`."""


class Function(msgspec.Struct, frozen=True):
    """A function of the distributed API as a request names it (dapi.md 2, appendix C). `client_argument`: the keyword
    that stock nodes fill with their own client."""

    module: str
    qualname: str
    request_type: RequestType
    client_argument: str | None = None

    @property
    def name(self) -> WireCallable:
        return WireCallable(self.qualname.rpartition(".")[2], self.module, self.qualname)

    def request(
        self,
        arguments: Mapping[str, Any],
        *,
        user: str,
        timeout_s: float,
        wait_for_complete: bool = False,
        nodes: tuple[str, ...] = (),
        broadcasting: bool = False,
    ) -> ApiRequest:
        row = find(self.name)
        return ApiRequest(
            f=self.name,
            f_kwargs=dict(arguments),
            request_type=self.request_type,
            wait_for_complete=wait_for_complete,
            is_async=row is not None and row.is_coroutine,
            local_client_arg=self.client_argument,
            current_user=user,
            broadcasting=broadcasting,
            nodes=nodes,
            api_timeout=timeout_s,
        )


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The body: one text, for `keyword`; or a JSON object of this `model` (clusterd/api/bodies.py), whose fields are
    keywords."""

    keyword: str = ""
    model: type[msgspec.Struct] | None = None

    @property
    def media_type(self) -> str:
        return OCTETS if self.model is None else JSON


class Endpoint(msgspec.Struct, frozen=True):
    """`operation`: method and path. `constants`: keywords that are always sent. `adjust`: names a change of the
    arguments in clusterd/api/calls.py, or an endpoint that asks more than one function. `needs_nodes`: the request
    carries the names of all nodes. `raw_type`: media type of the file itself, for endpoints with `raw`."""

    operation: str
    summary: str
    function: Function
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    constants: Mapping[str, Any] = {}
    adjust: Literal["", "without_group", "ruleset_status"] = ""
    needs_nodes: bool = False
    answer: Answer = "items"
    raw_type: str = ""

    @property
    def method(self) -> str:
        return self.operation.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.operation.partition(" ")[2]

    @property
    def tag(self) -> str:
        """The heading under which it is shown."""
        word = self.path.split("/")[1]
        return "SCA" if word == "sca" else word.capitalize()

    @property
    def name(self) -> str:
        """Its operationId."""
        words = [word.strip("{}") for word in self.path.split("/") if word]
        return "_".join([self.method.lower(), *words])

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        return (*self.parameters, *COMMON)

    @property
    def changes(self) -> bool:
        return self.method != "GET"

    @property
    def is_for_admins(self) -> bool:
        """Whether it changes something, or discloses keys."""
        row = find(self.function.name)
        return self.changes or row is None or row.is_sensitive
