"""How long who asks for a function waits, and how long who executes it may let it wait (dapi.md 3.9): the first is more
by a margin, whatever time-outs are configured. Seconds."""

from clusterd.settings import Settings

MARGIN_S = 5.0
"""Time that a request and its answer may take on their way."""


def function_s(settings: Settings, asked_s: float) -> float:
    """How long a function may run whose asker wants to give it `asked_s` (`api_timeout`)."""
    return max(asked_s, settings.clusterd.request_timeout_s)


def asker_waits_s(settings: Settings, asked_s: float, *, wait_for_complete: bool) -> float:
    """How long to wait for an answer. A master gives up a late worker `timeout_cluster_request` after the function's
    time, a silent one after twice that, and then has the answers of the others: who gave up before would get none."""
    whole_s, node_s = _limits(settings)
    return whole_s if wait_for_complete else min(whole_s, function_s(settings, asked_s) + 2 * node_s + MARGIN_S)


def begins_within_s(settings: Settings, asked_s: float, *, wait_for_complete: bool) -> float:
    """In which time after its arrival a change must have begun: while every asker still waits, those of other programs,
    which wait for the whole time, too."""
    whole_s, node_s = _limits(settings)
    latest_s = max(whole_s - MARGIN_S, whole_s / 2)
    return latest_s if wait_for_complete else min(latest_s, function_s(settings, asked_s) + node_s)


def node_answers_s(settings: Settings, asked_s: float, *, wait_for_complete: bool) -> float | None:
    """In which time a worker's answer must begin to arrive. None: there is no limit while it is connected."""
    return None if wait_for_complete else function_s(settings, asked_s) + _limits(settings)[1]


def _limits(settings: Settings) -> tuple[float, float]:
    """For any request as a whole, and for any response of another node."""
    times = settings.communication
    return times.timeout_dapi_request_s, times.timeout_cluster_request_s
