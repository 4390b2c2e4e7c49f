"""The rule for children that ended (clusterd/supervisor/restart.py)."""

from hypothesis import given
from hypothesis import strategies as st

from clusterd.exits import ExitCode
from clusterd.supervisor.restart import (
    LIVES_TO_TRY,
    LONG_LIFE_S,
    LONGEST_PAUSE_S,
    GiveUp,
    History,
    Life,
    Restart,
    decide,
    how,
)

lives = st.builds(
    Life,
    lasted_s=st.floats(0, 1e6),
    status=st.integers(-64, 255),
    was_ready=st.booleans(),
)


def replay(*many: Life) -> list[Restart | GiveUp]:
    history, answers = History(), []
    for life in many:
        history, answer = decide(history, life, 0.0)
        answers.append(answer)
    return answers


def test_child_that_worked_for_long_comes_back_at_once() -> None:
    assert replay(Life(3600, -9, True)) == [Restart(0.0)]


def test_child_killed_again_and_again_waits_longer_but_never_over_five_seconds() -> None:
    answers = replay(*[Life(0.2, -9, True)] * 12)

    pauses = [answer.pause_s for answer in answers if isinstance(answer, Restart)]
    assert len(pauses) == 12
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S == 5.0


def test_long_life_makes_up_for_the_short_ones() -> None:
    short, long = Life(0.2, -9, True), Life(LONG_LIFE_S, -9, True)

    assert replay(short, short, short, long, short)[-3:] == [Restart(0.4), Restart(0.0), Restart(0.0)]


def test_child_that_was_never_ready_has_a_handful_of_lives() -> None:
    answers = replay(*[Life(0.01, 1, False)] * LIVES_TO_TRY)

    assert all(isinstance(answer, Restart) for answer in answers[:-1])
    assert answers[-1] == GiveUp(f"ended {LIVES_TO_TRY} times before it was ready, the last time with exit code 1")


def test_child_that_says_it_could_not_start_is_believed_at_once() -> None:
    assert replay(Life(0.01, ExitCode.COULD_NOT_START, False)) == [GiveUp("could not start")]


def test_child_that_was_ready_once_may_fail_to_start_later() -> None:
    """For a moment another program may have the port of a killed net."""
    answers = replay(Life(60, -9, True), *[Life(0.1, ExitCode.COULD_NOT_START, False)] * 30)

    assert all(isinstance(answer, Restart) for answer in answers)


@given(st.lists(lives, max_size=40), lives, st.floats(0, 1))
def test_child_that_was_ready_in_any_life_is_never_given_up(before: list[Life], last: Life, spread: float) -> None:
    history, _ = decide(History(), Life(1, -9, True), spread)
    for life in [*before, last]:
        history, answer = decide(history, life, spread)
        assert isinstance(answer, Restart)
        assert 0 <= answer.pause_s <= LONGEST_PAUSE_S


def test_the_end_of_a_process_is_reported_by_name() -> None:
    assert how(3) == "with exit code 3"
    assert how(-9) == "by SIGKILL"
    assert how(-40) == "by signal 40"
