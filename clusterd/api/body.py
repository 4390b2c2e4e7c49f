"""Bodies of requests: bounded in size and time, of the type that the endpoint takes."""

import asyncio
import re
from typing import Any

import msgspec
from starlette.requests import Request

from clusterd.api.endpoint import Body
from clusterd.api.problem import Refused
from clusterd.settings import ApiSettings


async def read_body(request: Request, body: Body, settings: ApiSettings) -> dict[str, Any]:
    """The keywords of the body. Raises Refused: 406 for another content type, 408, 413, 400 for what is in it."""
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
    return {body.keyword: text} if body.kind == "text" else _fields(text, body)


def _fields(text: str, body: Body) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, RecursionError):
        raise Refused(400, "the body must be a JSON object of texts", error=1018) from None
    if fields.keys() != body.fields.keys():
        raise Refused(400, f"the body's keys must be: {', '.join(body.fields)}", error=1018)
    for name, pattern in body.fields.items():
        if re.fullmatch(pattern, fields[name]) is None:
            raise Refused(400, f"{name} must be of the form {pattern}")
    return dict(fields)


async def _content(request: Request, settings: ApiSettings) -> bytes:
    """Not a byte more than allowed is kept, whatever the headers say."""
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
