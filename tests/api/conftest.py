"""The REST API without a socket, for the tests of this folder."""

import pytest

from tests.api.harness import Door


@pytest.fixture
def door() -> Door:
    return Door()
