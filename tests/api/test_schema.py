"""The OpenAPI document is true: whatever it allows is taken, whatever it does not allow is refused, answers are as it says.

Schemathesis makes the requests: a bounded number of them, the same ones in each run.
"""

import functools
import threading
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.config import GenerationConfig, SchemathesisConfig
from starlette.types import Receive, Scope, Send

from clusterd.api.table import ENDPOINTS
from clusterd.dapi.items import Items
from clusterd.dapi.request import ApiRequest
from tests.api.harness import Answer, Door, FakeNode, plain

EXAMPLES = 8
OBJECTS = {endpoint.function.qualname for endpoint in ENDPOINTS if endpoint.answer != "items"}
