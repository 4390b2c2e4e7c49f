"""Builds the OpenAPI 3.1 document from the table of endpoints."""

from collections.abc import Sequence
from typing import Any

import msgspec

from clusterd import __version__
from clusterd.api.endpoint import JSON, Endpoint
from clusterd.api.examples import ABOUT, BODIES, EXAMPLES, answer_of, schema_of
from clusterd.api.parameters import PRETTY, RAW, Parameter

LOGIN_PATH = "/security/user/authenticate"
PROBLEM = "application/problem+json"
REFUSALS = (400, 401, 403, 404, 406, 408, 413, 429, 500)
SCHEMAS: dict[str, Any] = {
    "Items": {
        "type": "object",
        "required": ["data", "message", "error"],
        "properties": {
            "data": {
                "type": "object",
                "required": ["affected_items", "total_affected_items", "total_failed_items", "failed_items"],
                "properties": {
                    "affected_items": {"type": "array"},
                    "total_affected_items": {"type": "integer", "description": "How many there are in all pages."},
                    "total_failed_items": {"type": "integer"},
                    "failed_items": {"type": "array", "items": {"$ref": "#/components/schemas/FailedItem"}},
                },
            },
            "message": {"type": "string"},
            "error": {"type": "integer", "description": "0: all good; 1: nothing; 2: some failed."},
        },
    },
    "FailedItem": {
        "type": "object",
        "required": ["error", "id"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "integer"},
                    "message": {"type": "string"},
                    "remediation": {"type": "string"},
                },
            },
            "id": {"type": "array"},
        },
    },
    "Object": {
        "type": "object",
        "required": ["error"],
        "properties": {"data": {}, "message": {}, "error": {"type": "integer"}},
    },
    "Token": {
        "type": "object",
        "required": ["data", "error"],
        "properties": {
            "data": {"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}},
            "error": {"type": "integer"},
        },
    },
    "Problem": {
        "type": "object",
        "required": ["title", "detail", "error"],
        "properties": {
            "title": {"type": "string"},
            "detail": {"type": "string"},
            "remediation": {"type": "string"},
            "dapi_errors": {"type": "object", "description": "What went wrong, by node."},
            "error": {"type": "integer", "description": "A code of the cluster, or the HTTP status."},
        },
    },
}
_ANSWERS = {"items": "Items", "object": "Object", "message": "Object"}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Returns the whole document, ready to be written as JSON."""
    paths: dict[str, dict[str, Any]] = {"/": {"get": _about()}, LOGIN_PATH: {"post": _login()}}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation(endpoint)
    models = [endpoint.body.model for endpoint in endpoints if endpoint.body and endpoint.body.model]
    _, bodies = msgspec.json.schema_components(models, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clusterd REST API",
            "version": __version__,
            "description": "A cluster of SIEM manager nodes. Log in at `POST /security/user/authenticate` with HTTP "
            "Basic; then send the token as `Authorization: Bearer`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS | bodies,
            "responses": {
                "Problem": {
                    "description": "Why the request was refused or failed",
                    "content": {PROBLEM: {"schema": _ref("Problem")}},
                }
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "login": {"type": "http", "scheme": "basic"},
            },
        },
    }


def operation(endpoint: Endpoint) -> dict[str, Any]:
    """Returns one endpoint as an operation object."""
    content: dict[str, Any] = {JSON: {"schema": _answer(endpoint), "example": answer_of(endpoint)}}
    if endpoint.raw_type:
        content[endpoint.raw_type] = {"schema": {"type": "string"}}
    described: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "parameters": [_parameter(parameter) for parameter in endpoint.all_parameters],
        "responses": {
            "200": {"description": "OK", "content": content},
            **_refusals(),
        },
    }
    if endpoint.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {endpoint.body.media_type: _body(endpoint)},
        }
    return described


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    """Returns the schema of an answer: the part common to its kind, and the content of this endpoint."""
    common = _ref(_ANSWERS[endpoint.answer])
    if endpoint.raw_type:
        # The content depends on the file.
        return common
    found = schema_of(EXAMPLES[endpoint.name])
    if endpoint.answer == "items":
        items = {"type": "object", "properties": {"affected_items": {"type": "array", "items": found}}}
        return {"allOf": [common, {"type": "object", "properties": {"data": items}}]}
    key = "data" if endpoint.answer == "object" else "message"
    return {"allOf": [common, {"type": "object", "properties": {key: found}}]}


def _body(endpoint: Endpoint) -> dict[str, Any]:
    assert endpoint.body is not None
    if endpoint.body.model is None:
        return {"schema": {"type": "string", "minLength": 1}}
    return {"schema": _ref(endpoint.body.model.__name__), "example": BODIES[endpoint.name]}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "required": parameter.is_required or parameter.place == "path",
        "schema": parameter.schema(),
    }
    if parameter.kind == "texts":
        described |= {"style": "form", "explode": False}
    return described


def _about() -> dict[str, Any]:
    return {
        "operationId": "about",
        "tags": ["API"],
        "summary": "What this API is",
        "parameters": [_parameter(PRETTY)],
        "responses": {
            "200": {
                "description": "OK",
                "content": {JSON: {"schema": _ref("Object"), "example": {"data": ABOUT, "error": 0}}},
            },
            **_refusals(),
        },
    }


def _login() -> dict[str, Any]:
    content = {JSON: {"schema": _ref("Token")}, "text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": "login",
        "tags": ["API"],
        "summary": "A token for a user's name and password",
        "security": [{"login": []}],
        "parameters": [_parameter(RAW), _parameter(PRETTY)],
        "responses": {"200": {"description": "OK", "content": content}, **_refusals()},
    }


def _refusals() -> dict[str, Any]:
    return {str(status): {"$ref": "#/components/responses/Problem"} for status in REFUSALS}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
