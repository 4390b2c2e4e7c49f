"""Exceptions with their JSON (dapi.md 4.4)."""


class WazuhException(Exception):
    title = "WazuhException"
    has_ids = False

    def __init__(self, code, extra_message=None, ids=None, dapi_errors=None):
        super().__init__(code, extra_message)
        self.code = code
        self.extra_message = extra_message
        self.ids = list(ids or [])
        self.dapi_errors = dapi_errors or {}

    def fields(self):
        found = {
            "type": "about:blank",
            "title": self.title,
            "code": self.code,
            "extra_message": self.extra_message,
            "extra_remediation": None,
            "cmd_error": False,
            "dapi_errors": self.dapi_errors,
        }
        return {**found, "ids": self.ids} if self.has_ids else found


class WazuhInternalError(WazuhException):
    title = "Wazuh Internal Error"


class WazuhError(WazuhException):
    title = "Bad Request"
    has_ids = True


class WazuhPermissionError(WazuhError):
    title = "Permission Denied"


class WazuhResourceNotFound(WazuhError):
    title = "Resource Not Found"
