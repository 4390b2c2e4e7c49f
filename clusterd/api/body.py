"""Bodies of requests: bounded in size and time, in the content type of the endpoint."""

import asyncio
import re
from typing import Any

import msgspec
from starlette.requests import Request

from clusterd.api.endpoint import Body
from clusterd.api.problem import Refused
from clusterd.settings import ApiSettings

_CONTROL = re.compile(r"\\[bfnrt]|\\u00[01][0-9a-fA-F]|\\u007[fF]")
"""Escapes of control characters in JSON, where they must be escaped."""


async def read_body(request: Request, body: Body, settings: ApiSettings) -> dict[str, Any]:
    """Returns the keywords of the body. Raises Refused: 406 for another content type, 408, 413, 400 for invalid
    content."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != body.media_type:
        raise Refused(406, f"the body's content type must be {body.media_type}", error=6002)
    content = await _content(request, settings)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "the body must be text in UTF-8", error=1911) from None
    if not text:
        raise Refused(400, "the body is empty", error=1912)
    return {body.keyword: text} if body.model is None else _fields(text, body.model)


def _fields(text: str, model: type[msgspec.Struct]) -> dict[str, Any]:
    """Raises Refused. The text tells where the mistake is and of what kind, and repeats no value."""
    if _CONTROL.search(text):
        # The patterns alone do not suffice: one that ends with `$` accepts a line end.
        raise Refused(400, "no text of the body may have control characters", error=1018)
    try:
        found = msgspec.json.decode(text, type=model)
    except msgspec.ValidationError as problem:
        raise Refused(400, f"the body: {problem}", error=1018) from None
    except (msgspec.DecodeError, RecursionError):
        raise Refused(400, "the body must be a JSON object", error=1018) from None
    given = {name: getattr(found, name) for name in model.__struct_fields__}
    return {name: msgspec.to_builtins(value) for name, value in given.items() if value is not msgspec.UNSET}


async def _content(request: Request, settings: ApiSettings) -> bytes:
    """Reads the body. Never keeps more than the allowed bytes, whatever the headers announce."""
    most = settings.request_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise Refused(413, f"the body may have {most} bytes")
    content = bytearray()
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            async for piece in request.stream():
                content += piece
                if len(content) > most:
                    raise Refused(413, f"the body may have {most} bytes")
    except TimeoutError:
        raise Refused(408, "the body did not arrive in time", headers={"Connection": "close"}) from None
    return bytes(content)
