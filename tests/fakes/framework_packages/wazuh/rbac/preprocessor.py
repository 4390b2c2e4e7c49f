from wazuh.core.common import exposed
from wazuh.core.results import WazuhResult


@exposed
def get_permissions(user_id=None, auth_context=None):
    allowed = {"security:read": {"user:id:*": "allow"}} if user_id == "wazuh" else {}
    return WazuhResult({"rbac_mode": "white", **allowed})
