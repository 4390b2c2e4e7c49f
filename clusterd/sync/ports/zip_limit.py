"""The limit on a package's size that adapts to one worker's link (wire.md 5.7). Works on numbers only."""

from clusterd.settings import Communication

MIB = 1048576


class ZipLimit:
    """`current`: bytes. Shrinks when the peer gave up waiting, grows back while sendings are quick."""

    def __init__(self, rules: Communication) -> None:
        self._rules = rules
        self.current: float = rules.max_zip_size_bytes

    def set_rules(self, rules: Communication) -> None:
        """What a reload has changed. A limit that had not shrunk is the new maximum."""
        has_shrunk = self.current < self._rules.max_zip_size_bytes
        self._rules = rules
        self.current = min(self.current, rules.max_zip_size_bytes) if has_shrunk else rules.max_zip_size_bytes

    def interrupted(self, sent_bytes: int) -> str:
        """Records that the peer cancelled after `sent_bytes`; returns the DEBUG line."""
        rules = self._rules
        self.current = max(rules.min_zip_size_bytes, sent_bytes * (1 - rules.zip_limit_tolerance))
        return f"Decreasing sync size limit to {self.current / MIB:.2f} MB."

    def sending_ended(self, sending_s: float) -> str | None:
        """Records that a sending ended otherwise, after `sending_s` (0: failed before it began; infinite: failed while
        it ran).

        Returns the DEBUG line if the limit grew."""
        rules = self._rules
        quick = sending_s < rules.timeout_receiving_file_s * (1 - rules.zip_limit_tolerance)
        if self.current >= rules.max_zip_size_bytes or not quick:
            return None
        self.current = min(rules.max_zip_size_bytes, self.current / (1 - rules.zip_limit_tolerance))
        return f"Increasing sync size limit to {self.current / MIB:.2f} MB."
