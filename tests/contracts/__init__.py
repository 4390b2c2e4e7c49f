"""The store against its specification (wdb.md), only through its sockets."""
