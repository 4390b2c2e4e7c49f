"""Jobs of the distributed API."""

import msgspec

from clusterd.messages.base import Job, Result, Text


class NodeRequest(msgspec.Struct, frozen=True, array_like=True):
    """What one node of a plan is asked."""

    node: str
    request: Text


class FunctionDone(Result, frozen=True, tag="function-done"):
    """`answer`: an encoded result or exception (dapi.md 4). `declined`: why the function does not take these arguments,
    where somebody else may; then nothing was done."""

    answer: Text
    declined: str = ""


class RequestPlanned(Result, frozen=True, tag="request-planned"):
    """`requests`: in the order in which the answers are merged. `allowed`: the listing of the nodes (encoded);
    `merges`: whether the answers must be combined, or the only one is the answer. With `failure` (encoded) there is no
    plan."""

    requests: list[NodeRequest]
    allowed: bytes
    merges: bool
    failure: bytes = b""


class RunFunction(Job[FunctionDone], frozen=True, tag="run-function"):
    """Run the function that an API request names, on this node. `serves_store`: whether our own store serves the agent
    database here. A large answer goes to `out`. `may_decline`: somebody else may be asked. Result: FunctionDone,
    whatever the function says."""

    root: str
    request: Text
    out: str
    serves_store: bool
    may_decline: bool = False


class PlanRequest(Job[RequestPlanned], frozen=True, tag="plan-request"):
    """Which nodes solve a distributed API request, and what each is asked; `connected` are the master (first) and its
    workers. Large requests go to the file `out`, one behind the other. Result: RequestPlanned."""

    root: str
    request: Text
    connected: list[str]
    timeout_s: float
    out: str


class CombineAnswers(Job[FunctionDone], frozen=True, tag="combine-answers"):
    """The answers of the nodes of a plan as one; `allowed` as RequestPlanned has it. A large one goes to `out`.
    Result: FunctionDone."""

    request: Text
    allowed: bytes
    answers: list[Text]
    out: str
