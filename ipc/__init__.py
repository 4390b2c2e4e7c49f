"""Channels, shared memory and the status board between our own processes. Knows nothing of files or of the cluster."""
