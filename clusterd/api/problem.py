"""The answers to requests that are refused or fail: problem+json (dapi.md 4.4)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from clusterd.api.jsontext import dump
from clusterd.wire.results import WireException

MEDIA_TYPE = "application/problem+json; charset=utf-8"
STATUS = {
    "WazuhError": 400,
    "WazuhPermissionError": 403,
    "WazuhResourceNotFound": 404,
    "WazuhNotAcceptable": 406,
    "WazuhTooManyRequests": 429,
}
"""Status by class of exception; every other class is 500."""


class Refused(Exception):
    """A refusal by the API itself. `error`: a code of errors.MESSAGES where one fits, else the HTTP status."""

    def __init__(
        self, status: int, detail: str, *, error: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.error = status if error is None else error
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"title": HTTPStatus(self.status).phrase, "detail": self.detail, "error": self.error}
        return Response(dump(body), self.status, self.headers, MEDIA_TYPE)


def failure_response(failure: WireException, *, pretty: bool = False) -> Response:
    """Builds the answer for a failure of a function or of the node. `remediation` and `dapi_errors` only if not
    empty."""
    if failure.code == 3012:
        # The daemon's socket has no meaning for a caller of the API (dapi.md 5.1).
        failure = WireException(3013, failure.extra_message)
    body: dict[str, Any] = {"title": failure.fields()["title"], "detail": failure.message}
    if failure.remediation:
        body["remediation"] = failure.remediation
    if failure.dapi_errors:
        body["dapi_errors"] = failure.dapi_errors
    body["error"] = failure.code
    status = STATUS.get(failure.wire_class, 500)
    return Response(dump(body, pretty=pretty), status, media_type=MEDIA_TYPE)
