from wazuh.core import common
from wazuh.core.common import exposed
from wazuh.core.results import WazuhResult


@exposed
def revoke_tokens():
    common.count("revoked")
    return WazuhResult({"msg": "Tokens were successfully revoked"})
