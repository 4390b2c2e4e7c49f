"""The page about the API at /docs: plain HTML made from the table of endpoints, nothing loaded from anywhere."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from clusterd import __version__
from clusterd.api.endpoint import Endpoint
from clusterd.api.openapi import LOGIN_PATH
from clusterd.api.parameters import COMMON, Parameter

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff; }
code, pre { font: 0.9em ui-monospace, monospace; } pre { background: #f3f3f3; padding: 0.7rem; overflow-x: auto; }
h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem; } details { border: 1px solid #ddd; border-radius: 4px; margin: 0.4rem 0; }
summary { padding: 0.4rem 0.7rem; cursor: pointer; } details > div { padding: 0 0.7rem 0.7rem; overflow-x: auto; }
b { display: inline-block; min-width: 4.5rem; } table { border-collapse: collapse; } nav a { margin-right: 1rem; }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.8rem 0.2rem 0; } .about { color: #555; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616; } pre { background: #242424; }
 details { border-color: #444; } a { color: #8bf; } .about { color: #aaa; } }
"""
INTRODUCTION = f"""
<p>Log in with a name and a password, then send the token with every request until it expires:</p>
<pre>TOKEN=$(curl -u NAME --cacert CERTIFICATE -X POST "https://HOST:55000{LOGIN_PATH}?raw=true")
curl --cacert CERTIFICATE -H "Authorization: Bearer $TOKEN" "https://HOST:55000/cluster/nodes?pretty=true"</pre>
<p>An answer is <code>{{"data": ..., "message": ..., "error": 0}}</code>: <code>error</code> is 1 when nothing could be done, 2 when
some of it could not, and then <code>failed_items</code> says what and why. A request that is refused or fails is answered with
<code>application/problem+json</code>. The same for programs: <a href="/openapi.json">OpenAPI document</a>.</p>
"""


def page(endpoints: Iterable[Endpoint]) -> str:
    """The whole page."""
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
    body = ""
    if endpoint.body is not None:
        fields = "".join(f" <code>{escape(name)}</code>" for name in endpoint.body.fields)
        body = f"<p>Body: <code>{endpoint.body.media_type}</code>{fields}</p>"
    parameters = _table(endpoint.parameters) if endpoint.parameters else "<p>No parameters of its own.</p>"
    return (
        f"<details><summary><b>{endpoint.method}</b> <code>{escape(endpoint.path)}</code> "
        f'<span class="about">{escape(endpoint.summary)}</span></summary><div>{body}{parameters}</div></details>'
    )


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
