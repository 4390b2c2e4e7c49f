"""The page about the API at /docs: plain HTML built from the table of endpoints. It loads nothing."""

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any, get_args

import msgspec

from clusterd import __version__
from clusterd.api.endpoint import Endpoint
from clusterd.api.examples import BODIES, EXAMPLES, answer_of, request_of
from clusterd.api.openapi import LOGIN_PATH
from clusterd.api.parameters import COMMON, Parameter

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
code, pre { font: 0.9em ui-monospace, monospace; } pre { background: #f3f3f3; padding: 0.7rem; overflow-x: auto; }
h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem; }
details { border: 1px solid #ddd; border-radius: 4px; margin: 0.4rem 0; }
summary { padding: 0.4rem 0.7rem; cursor: pointer; } details > div { padding: 0 0.7rem 0.7rem; overflow-x: auto; }
b { display: inline-block; min-width: 4.5rem; } table { border-collapse: collapse; } nav a { margin-right: 1rem; }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.8rem 0.2rem 0; } .about { color: #555; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616; } pre { background: #242424; }
 details { border-color: #444; } a { color: #8bf; } .about { color: #aaa; } }
"""
ADDRESS = "@ADDRESS@"
"""Placeholder in the page for the host and port by which it is requested."""
INTRODUCTION = f"""
<p>Log in with a name and a password, then send the token with every request until it expires:</p>
<pre>TOKEN=$(curl -u NAME --cacert CERTIFICATE -X POST "https://{ADDRESS}{LOGIN_PATH}?raw=true")
curl --cacert CERTIFICATE -H "Authorization: Bearer $TOKEN" "https://{ADDRESS}/cluster/nodes?pretty=true"</pre>
<p>An answer is <code>{{"data": ..., "message": ..., "error": 0}}</code>:
<code>error</code> is 1 when nothing could be done, 2 when some of it could not, and then <code>failed_items</code> says
what and why. A request that is refused or fails is answered with <code>application/problem+json</code>. A user with the
role <code>reader</code> gets 403 for what changes something and for keys.
The same for programs: <a href="/openapi.json">OpenAPI document</a>.</p>
"""


def page(endpoints: Iterable[Endpoint]) -> str:
    """Returns the whole page, with ADDRESS as placeholder for host and port."""
    groups = [(tag, list(members)) for tag, members in groupby(endpoints, key=lambda endpoint: endpoint.tag)]
    links = " ".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag, _ in groups)
    common = _table(COMMON)
    sections = "".join(
        f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(map(_endpoint, members))}' for tag, members in groups
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>clusterd REST API</title>'
        f"<style>{STYLE}</style></head><body><h1>clusterd REST API {escape(__version__)}</h1>{INTRODUCTION}"
        f"<p>Every endpoint also takes:</p>{common}<nav>{links}</nav>{sections}</body></html>"
    )


def _endpoint(endpoint: Endpoint) -> str:
    parameters = _table(endpoint.parameters) if endpoint.parameters else "<p>No parameters of its own.</p>"
    answer = answer_of(endpoint)
    shown = escape(json.dumps(answer, indent=2, ensure_ascii=False))
    raw = (
        f"<p>With <code>raw=true</code>: the file itself, <code>{endpoint.raw_type}</code>.</p>"
        if endpoint.raw_type
        else ""
    )
    return (
        f"<details><summary><b>{endpoint.method}</b> <code>{escape(endpoint.path)}</code> "
        f'<span class="about">{escape(endpoint.summary)}</span></summary><div>{parameters}{_body(endpoint)}'
        f"<h4>Request</h4><pre>{escape(_request(endpoint), quote=False)}</pre>"
        f"<h4>Answer</h4><pre>{shown}</pre>{raw}{_fields(endpoint)}</div></details>"
    )


def _request(endpoint: Endpoint) -> str:
    """Returns the request as a curl command."""
    method = "" if endpoint.method == "GET" else f" -X {endpoint.method}"
    body = ""
    if endpoint.body is not None:
        content = "@FILE" if endpoint.body.model is None else json.dumps(BODIES[endpoint.name])
        body = f" \\\n     -H 'Content-Type: {endpoint.body.media_type}' --data-binary '{content}'"
    return (
        f'curl --cacert CERTIFICATE -H "Authorization: Bearer $TOKEN"{method}{body} \\\n'
        f'     "https://{ADDRESS}{request_of(endpoint)}"'
    )


def _body(endpoint: Endpoint) -> str:
    """Returns the members of a JSON body."""
    if endpoint.body is None or endpoint.body.model is None:
        return ""
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{kind}</td><td>{escape(about)}</td></tr>"
        for name, kind, about in _members(endpoint.body.model)
    )
    return f"<h4>Body</h4><table><tr><th>Field</th><th>Takes</th><th></th></tr>{rows}</table>"


def _members(model: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields dotted name, type and description of every member that a body may have."""
    (reference,), components = msgspec.json.schema_components([model])
    described = components[reference["$ref"].rpartition("/")[2]]
    for field in msgspec.structs.fields(model):
        shown = described["properties"][field.encode_name]
        need = " (required)" if field.required else ""
        inner = [
            one
            for one in (field.type, *get_args(field.type))
            if isinstance(one, type) and issubclass(one, msgspec.Struct)
        ]
        kind = {"boolean": "true, false", "string": "text"}.get(shown.get("type", ""), "object")
        default = shown.get("default")
        if isinstance(default, bool | str):
            need = f" (default {str(default).lower()})"
        yield f"{prefix}{field.encode_name}", f"{kind}{need}", shown.get("description", "")
        for one in inner:
            yield from _members(one, f"{prefix}{field.encode_name}.")


def _fields(endpoint: Endpoint) -> str:
    """Returns the members of an item, or of the object, with their types."""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td></tr>" for name, kind in flat(EXAMPLES[endpoint.name])
    )
    return f"<table><tr><th>Field</th><th>Type</th></tr>{rows}</table>" if rows else ""


def flat(example: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted names of all members of an object, with their types."""
    if isinstance(example, dict):
        for name, value in example.items():
            yield f"{prefix}{name}", _TYPES[type(value)]
            yield from flat(value, f"{prefix}{name}.")
    elif isinstance(example, list) and example:
        yield from flat(example[0], prefix)


_TYPES = {dict: "object", list: "list", str: "text", int: "number", bool: "true, false", type(None): "text or null"}


def _table(parameters: Sequence[Parameter]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one.name)}</code></td><td>{_kind(one)}</td><td>{escape(one.about)}</td></tr>"
        for one in parameters
    )
    return f"<table><tr><th>Parameter</th><th>Takes</th><th></th></tr>{rows}</table>"


def _kind(parameter: Parameter) -> str:
    words = {"whole": "number", "boolean": "true, false", "texts": "list", "date": "day"}.get(parameter.kind, "text")
    if parameter.choices:
        words = ", ".join(parameter.choices)
    if parameter.kind == "whole":
        words += f" {parameter.lowest} to {parameter.highest}"
    if parameter.place == "path":
        words += " (in the path)"
    elif parameter.is_required:
        words += " (required)"
    elif parameter.default is not None and not callable(parameter.default):
        words += (
            f" (default {str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default})"
        )
    return escape(words)
