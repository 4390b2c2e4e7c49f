"""What the journal would hear."""

from clusterd.messages.journal import AnyEvent


class Events:
    """Keeps them in `told`; stands for an EventSender."""

    is_on = True

    def __init__(self) -> None:
        self.told: list[AnyEvent] = []

    def tell(self, event: AnyEvent) -> None:
        self.told.append(event)
