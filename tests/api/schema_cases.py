"""The OpenAPI document is true: the API accepts whatever it allows, refuses whatever it does not allow, and answers as
it says.

Schemathesis makes the requests: a bounded number of them, the same ones in each run. The node behind the API is a fake
that checks arguments as the real functions do; tests/system/test_rest.py asks real nodes. test_schema.py runs this
file.
"""

import copy
import time
from collections import Counter
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from clusterd.api.endpoint import OCTETS
from clusterd.api.examples import answer_of
from clusterd.api.table import ENDPOINTS
from clusterd.api.tokens import Tokens
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.policy import find
from clusterd.dapi.protocol.registry import arguments_of
from clusterd.dapi.protocol.request import ApiRequest
from tests.api.harness import SECRET, Answer, Door, FakeNode, one_user, plain
from tests.sizes import examples

EXAMPLES = examples(4)
ANSWERS = {(one.function.module, one.function.qualname): answer_of(one) for one in ENDPOINTS}
"""Returns the node's answers: the examples of the document. They are true if they fit its schemas."""
BOUNDED = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def checking(request: ApiRequest) -> Answer:
    """Checks the arguments as the function would, and returns an answer of its kind."""
    function, row = FUNCTIONS.find(request.f), find(request.f)
    assert function is not None
    assert row is not None
    assert request.request_type in row.types
    routed = {"node_id", "node_list"} if row.types & {"distributed_master"} else set()
    arguments_of(function, {key: value for key, value in request.f_kwargs.items() if key not in routed})
    if function.module == "wazuh.core.cluster.control":
        return plain({"etc/rules/a.xml": "00"})
    answer = ANSWERS[function.module, function.qualname]
    if "error" in answer:
        del answer["error"]
    data = answer.get("data")
    if isinstance(data, dict) and "failed_items" in data:
        return Items("all", "some", "none", affected=data["affected_items"]).wire()
    return plain(answer)


ENDPOINTS_OF_A_CASE = 3
"""Endpoints for which wrong or extreme values of a parameter are tried. The parameters that all endpoints share
(`limit`, `q`, `wait_for_complete`, ...) are read by the same code, so a few endpoints are enough."""
tried: Counter[tuple[object, ...]] = Counter()


def is_known(case: Case) -> bool:
    """Returns whether enough endpoints with this parameter have been asked with a wrong value of it."""
    how = case.meta.phase.data
    if case.meta.phase.name != TestPhase.COVERAGE or how.parameter is None:
        return False
    raw = case.operation.definition.raw.get("parameters", [])
    schemas = [repr(one) for one in raw if one.get("name") == how.parameter]
    if not schemas:
        return False
    key = (how.parameter, how.parameter_location, how.scenario, how.description, *schemas)
    tried[key] += 1
    return tried[key] > ENDPOINTS_OF_A_CASE


def without_known(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the document without what `is_known` would leave out: making thousands of such cases takes long."""
    seen: Counter[str] = Counter()
    short = copy.deepcopy(document)
    for path in short["paths"].values():
        for operation in path.values():
            few = []
            for parameter in operation.get("parameters", []):
                seen[repr(parameter)] += 1
                if parameter.get("required") or seen[repr(parameter)] <= ENDPOINTS_OF_A_CASE:
                    few.append(parameter)
            operation["parameters"] = few
    return short


DOOR = Door(FakeNode(checking))
SCHEMA: Any = schemathesis.openapi.from_asgi("/openapi.json", DOOR.api.app)
"""Random requests of all parameters."""
VALUES: Any = schemathesis.openapi.from_dict(without_known(SCHEMA.raw_schema))
"""Each kind of right, extreme and wrong value of each parameter."""
VALUES.app = DOOR.api.app
SCHEMA.config.phases.coverage.enabled = False
VALUES.config.phases.examples.enabled = VALUES.config.phases.fuzzing.enabled = False


def check(case: Case) -> None:
    spoiled = {place for place, part in case.meta.components.items() if part.mode == GenerationMode.NEGATIVE}
    if ParameterLocation.HEADER in spoiled:
        # The only header is the token, and without it nothing else matters. So `ignored_auth` need not try everything
        # again.
        assert case.call_and_validate().status_code == 401
        return
    token = Tokens(lambda: SECRET, 900).issue(one_user(), time.time())
    # A body that may be any text has no wrong values: another type is written as text, too.
    is_text = ParameterLocation.BODY in spoiled and case.media_type == OCTETS
    case.call_and_validate(
        headers={"Authorization": f"Bearer {token}"},
        excluded_checks=[CHECKS.get_one(name) for name in ("ignored_auth", *["negative_data_rejection"] * is_text)],
    )


@SCHEMA.exclude(operation_id="login").parametrize()
@BOUNDED
def test_requests_are_taken_and_answered_as_the_document_says(case: Case) -> None:
    check(case)


@VALUES.exclude(operation_id="login").parametrize()
@BOUNDED
def test_values_are_taken_or_refused_as_the_document_says(case: Case) -> None:
    if not is_known(case):
        check(case)


@VALUES.include(operation_id="login").parametrize()
@BOUNDED
def test_values_of_logins_are_answered_as_the_document_says(case: Case) -> None:
    case.call_and_validate()


@SCHEMA.include(operation_id="login").parametrize()
@BOUNDED
def test_logins_are_answered_as_the_document_says(case: Case) -> None:
    """With wrong or missing credentials every answer is one that the document names."""
    case.call_and_validate()
