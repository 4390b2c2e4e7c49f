"""Why the store does not serve: said once in the log, and shown among the problems of `status` until it is over."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from clusterd.rundir import problem_path
from clusterd.store.advice import advice


class Trouble:
    def __init__(self, root: str, say: Callable[[str, str], None], retry_s: float) -> None:
        """`say`: logs a text at a level. `retry_s`: how often it is tried again."""
        self._path = Path(problem_path(root, "store"))
        self._say = say
        self._retry_s = retry_s
        self._text = ""

    def begins(self, failure: Exception, what: str = "") -> None:
        """`what`: stands before the failure."""
        why = str(failure) or type(failure).__name__
        if isinstance(failure, OSError) and failure.filename:
            why = f"{failure.filename}: {failure.strerror}"
        text = f"No agents on this node, files are synchronised: {what}{why}"
        words = advice(failure)
        if words:
            text += f". {words}"
        if text != self._text:
            self._text = text
            self._say("ERROR", f"{text}. Tried again every {self._retry_s:g} s.")
        with suppress(OSError):
            self._path.write_text(f"{text}\n", encoding="utf-8")

    def is_over(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._text = ""
