"""The type of options that are a length of time in seconds."""

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """A number from `min` on. Not `nan`, with which every comparison is false, nor one without an end: a command would
    wait for ever, or not at all."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no length of time.", param, ctx)
        return found
