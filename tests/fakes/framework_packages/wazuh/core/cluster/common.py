"""Encoder and decoder of marked objects (dapi.md 4)."""

import datetime
import importlib
import json

from wazuh.core import common, exception, results


class WazuhJSONEncoder(json.JSONEncoder):
    def default(self, o):
        if isinstance(o, exception.WazuhException):
            return {"__wazuh_exception__": {"__class__": type(o).__name__, "__object__": o.fields()}}
        if isinstance(o, (results.WazuhResult, results.AffectedItemsWazuhResult)):
            return {"__wazuh_result__": {"__class__": type(o).__name__, "__object__": o.fields()}}
        if isinstance(o, datetime.datetime):
            return {"__wazuh_datetime__": o.isoformat()}
        return super().default(o)


def as_wazuh_object(found):
    """As trusting as the original: it imports the named module. It records a call, so that a test sees it."""
    if "__wazuh_datetime__" in found:
        return datetime.datetime.fromisoformat(found["__wazuh_datetime__"])
    if "__callable__" in found:
        named = found["__callable__"]
        common.count(f"imported-{named['__module__']}")
        return getattr(importlib.import_module(named["__module__"]), named["__name__"])
    if "__unhandled_exc__" in found:
        common.count("unhandled")
    return found
