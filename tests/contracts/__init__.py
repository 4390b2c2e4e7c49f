"""The store against its specification (wdb.md), through its sockets alone."""
