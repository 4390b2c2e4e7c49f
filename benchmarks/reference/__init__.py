"""A plain cluster daemon, the stock way, to measure against: one asyncio process a node, written from wire.md alone.

It stands for the structure of the stock daemon, not for its code, which nobody here has seen:

- the master walks and hashes its files in one thread, whole, every `recalculate_integrity`; a file whose modification
  time is unchanged is not read again (wire.md 5.1);
- a worker tells all its metadata in every check, as one JSON (4.6, 5.3); the master unpacks and compares it on its
  loop;
- a package is made for each worker anew, file after file, on the loop (5.6), which gets a turn every PACK_TURN files;
- bodies are sealed and opened by Fernet on the loop; received chunks are written there too;
- one chunk of 5 MiB is in flight (4.3);
- the worker unpacks a package into a directory, then moves file by file (5.9), in one thread.

Intervals are the stock ones unless etc/cluster.json says otherwise. Nothing is slowed down: hashing reads 64 KiB at a
time and no loop waits without reason. Where stock would do harm it is kinder: before the first scan no permission is
given (C7). Left out, because no job measures it: agents, the distributed API, sendsync, the adaptive package limit,
merged files, TLS.

    python -m benchmarks.reference --root DIR        # role, name, key, port from DIR/etc/ossec.conf; SIGTERM ends it

Imports nothing of clusterd, hashing or ipc.
"""
