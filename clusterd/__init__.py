"""clusterd: a cluster daemon for SIEM managers, wire-compatible with the stock 4.14 wazuh-clusterd."""

__version__ = "0.1.0"
