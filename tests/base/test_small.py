"""Errors, names, back-off, places."""

import random

import pytest

from clusterd.clock import Backoff
from clusterd.errors import ClusterError, for_people
from clusterd.names import node_name_problem, package_name_problem
from clusterd.rundir import MAX_SOCKET_PATH, local_socket, root_problem


def test_an_errors_text_is_code_message_and_detail() -> None:
    assert str(ClusterError(3020, "hello")) == "Error 3020 - Timeout sending request: hello"
    assert str(ClusterError(3039)) == "Error 3039 - Timeout while waiting to receive a file"
    assert str(ClusterError(9999, "who knows")) == "Error 9999 - who knows"


def test_person_whose_question_no_database_answers_is_told_where_to_look() -> None:
    assert for_people(ClusterError(2005, "no such file")) == (
        "Error 2005 - Could not connect to wdb socket: no such file. Nobody serves the agent database: "
        "clusterd status, on the master, says why"
    )


@pytest.mark.parametrize("name", ["worker1", "a.b-c_D", "_x-", "x" * 128, "master", "self"])
def test_good_node_names(name: str) -> None:
    assert node_name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-rf", "-", "--root", "a/b", "a b", "a*b", "ü", "a\0", "a\n", "x" * 129]
)
def test_names_that_could_be_paths_or_break_a_hello_are_refused(name: str) -> None:
    assert node_name_problem(name)


@pytest.mark.parametrize("name", ["x.zip", "worker1-1795409470.197841-256c76f1.zip"])
def test_good_package_names(name: str) -> None:
    assert package_name_problem(name) is None


@pytest.mark.parametrize("name", [".zip", "x", "../x.zip", "a/x.zip", "x.zip ", "x.zip\n", "x" * 255 + ".zip"])
def test_bad_package_names(name: str) -> None:
    assert package_name_problem(name)


def test_backoff_grows_to_its_maximum_within_its_jitter_and_starts_anew() -> None:
    backoff = Backoff(1, 8, jitter=0.25, rng=random.Random(1))
    pauses = [backoff.next_s() for _ in range(6)]
    for pause, middle in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert middle * 0.75 <= pause <= middle * 1.25
    assert len({pause / middle for pause, middle in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True)}) > 1
    backoff.reset()
    assert backoff.next_s() <= 1.25


def test_the_longest_root_fits_a_socket_and_one_more_byte_is_refused() -> None:
    longest = "/" + "r" * (MAX_SOCKET_PATH - len(local_socket("")) - 1)
    assert root_problem(longest) is None
    problem = root_problem(longest + "r")
    assert problem is not None
    assert "at least 1 bytes shorter" in problem
    assert root_problem("/in another encoding: \udce9") is None
