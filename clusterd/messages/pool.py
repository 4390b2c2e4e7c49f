"""The channel between sync and the pool: credits, jobs, results."""

import functools
import operator
from typing import TYPE_CHECKING, Any

from clusterd.messages import agents, api, bodies, manifest, packages
from clusterd.messages.base import Job, Message, Result


class PoolHello(Message, frozen=True, tag="pool-hello"):
    """A pool process is free. A new incarnation of a slot means that the earlier one is dead. `at`: when it sent this,
    in seconds of CLOCK_MONOTONIC, which all processes share; 0: ignored."""

    slot: int
    incarnation: int
    at: float = 0.0


class JobFailed(Result, frozen=True, tag="job-failed"):
    """`kind` is a word that a program tests ("disk", "bad-seal", "bad-package", "bad-json", "unknown-name",
    "too-large", "vanished", "gave-way", "unwanted", "busy", "died", "late", "bug"); `text` tells a person what happened
    and to which file, without a stack. "died": the process that ran it, and it was not run again. "late": it has not
    begun."""

    kind: str
    text: str


def _kinds(base: type[Any]) -> list[type[Any]]:
    modules = (agents, api, bodies, manifest, packages)
    found = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    return [kind for kind in dict.fromkeys(found) if issubclass(kind, base) and kind is not base]


if TYPE_CHECKING:
    AnyJob = Job[Any]
    AnyResult = Result
else:  # what a channel takes: every kind that the modules define
    AnyJob = functools.reduce(operator.or_, _kinds(Job))
    AnyResult = functools.reduce(operator.or_, [*_kinds(Result), JobFailed])


class StartJob(Message, frozen=True, tag="start-job"):
    """sync -> pool: run this job. Sent only to a process that is free. `begin_by`: monotonic seconds after which it is
    not to begin; a process may be stopped just before it reads this."""

    id: int
    job: AnyJob
    begin_by: float | None = None


class JobDone(Message, frozen=True, tag="job-done"):
    """pool -> sync: the job's result; the process is free again."""

    id: int
    result: AnyResult


PoolToSync = PoolHello | JobDone


SyncToPool = StartJob
