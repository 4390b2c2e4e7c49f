"""The exception by which a job fails."""


class Failure(Exception):
    """Becomes a JobFailed. `kind` is one of the words of clusterd.messages.pool.JobFailed; the text is for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
