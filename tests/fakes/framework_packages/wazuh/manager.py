from wazuh.core import common
from wazuh.core.common import exposed
from wazuh.core.results import AffectedItemsWazuhResult, WazuhResult


@exposed
def get_status():
    return AffectedItemsWazuhResult([{"wazuh-clusterd": "running", "wazuh-db": "running"}])


@exposed
def read_ossec_conf(section=None, field=None, raw=False, **others):
    """Its answer contains the key, as in the framework of 4.14.1."""
    text = (common.ROOT / "etc" / "ossec.conf").read_text()
    if raw:
        return text
    return WazuhResult({"data": {"cluster": {"key": text.partition("<key>")[2].partition("</key>")[0]}}})
