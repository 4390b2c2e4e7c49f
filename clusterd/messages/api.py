"""Jobs of the distributed API."""

import msgspec

from clusterd.messages.base import Job, Result, Text


class NodeRequest(msgspec.Struct, frozen=True, array_like=True):
    """The request to one node of a plan."""

    node: str
    request: Text


class FunctionDone(Result, frozen=True, tag="function-done"):
    """`answer`: an encoded result or exception (dapi.md 4). `declined`: why the function does not take these arguments,
    where another answerer may; then nothing was executed."""

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
    database here. A large answer is written to `out`. `may_decline`: another answerer may be asked. `changes`: the
    function changes something, so it never runs twice. Result: FunctionDone, whatever the function returns."""

    makes = ("out",)

    root: str
    request: Text
    out: str
    serves_store: bool
    may_decline: bool = False
    changes: bool = False

    @property
    def may_run_again(self) -> bool:
        return not self.changes


class PlanRequest(Job[RequestPlanned], frozen=True, tag="plan-request"):
    """Decide which nodes solve a distributed API request, and what each is asked; `connected` are the master (first)
    and its workers. Large requests are written to the file `out`, one after the other."""

    makes = ("out",)

    root: str
    request: Text
    connected: list[str]
    timeout_s: float
    out: str


class CombineAnswers(Job[FunctionDone], frozen=True, tag="combine-answers"):
    """Merge the answers of the nodes of a plan into one; `allowed` as in RequestPlanned. A large one is written to
    `out`."""

    makes = ("out",)

    request: Text
    allowed: bytes
    answers: list[Text]
    out: str
