"""Results with their JSON (dapi.md 4.3)."""


class WazuhResult:
    def __init__(self, result):
        self.result = result

    def fields(self):
        return {"str_priority": None, "result": self.result}


class AffectedItemsWazuhResult:
    def __init__(self, items=(), none="none", some="some", all_="all", failed=None):
        self.items = list(items)
        self.messages = (all_, some, none)
        self.failed = failed or {}

    def fields(self):
        return {
            "affected_items": self.items,
            "sort_fields": None,
            "sort_casting": ["str"],
            "sort_ascending": [True],
            "total_affected_items": len(self.items),
            "total_failed_items": sum(len(ids) for ids in self.failed.values()),
            "dikt": {},
            "all_msg": self.messages[0],
            "some_msg": self.messages[1],
            "none_msg": self.messages[2],
            "failed_items_keys": [
                {"__object__": failure.fields(), "__class__": type(failure).__name__} for failure in self.failed
            ],
            "failed_items_values": [list(ids) for ids in self.failed.values()],
        }
