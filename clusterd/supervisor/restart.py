"""Decides whether and when a child that ended is replaced: a pure function of its lives. The caller has the clock.

"Could not start" and "died at work" have different answers. A child that was ready in any of its lives has worked with
this configuration, so it is always replaced: at once after a long life, after a growing pause of at most
LONGEST_PAUSE_S when lives are short. A child that was never ready gets LIVES_TO_TRY lives; one that reports itself that
it could not start (exit code COULD_NOT_START) gets only one.
"""

import signal

import msgspec

from clusterd.exits import ExitCode

LIVES_TO_TRY = 5
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONG_LIFE_S = 5.0


class Life(msgspec.Struct, frozen=True):
    """One finished life of a child. `status`: exit code, or -N for signal N. `was_ready`: it had begun its work."""

    lasted_s: float
    status: int
    was_ready: bool


class History(msgspec.Struct, frozen=True):
    """What is remembered of one child's earlier lives. `short_lives`: how many in a row ended early."""

    ever_ready: bool = False
    lives: int = 0
    short_lives: int = 0


class Restart(msgspec.Struct, frozen=True):
    """Fork the child again in `pause_s` seconds."""

    pause_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """The node cannot work; `why` completes a sentence that begins with the child's name."""

    why: str


def decide(history: History, life: Life, spread: float) -> tuple[History, Restart | GiveUp]:
    """Returns the history including this life, and what to do now. `spread` (0 to 1) shortens a pause by up to a fifth,
    so that children that died together do not return together."""
    short = 0 if life.lasted_s >= LONG_LIFE_S and life.was_ready else history.short_lives + 1
    after = History(history.ever_ready or life.was_ready, history.lives + 1, short)
    if not after.ever_ready:
        if life.status == ExitCode.COULD_NOT_START:
            return after, GiveUp("could not start")
        if after.lives >= LIVES_TO_TRY:
            return after, GiveUp(f"ended {after.lives} times before it was ready, the last time {how(life.status)}")
    if after.ever_ready and short <= 1:
        return after, Restart(0.0)
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(short - 1, 16))
    return after, Restart(longest * (1.0 - 0.2 * spread))


def how(status: int) -> str:
    """How a process ended, for people: `with exit code 1`, `by SIGKILL`."""
    if status >= 0:
        return f"with exit code {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
