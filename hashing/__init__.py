"""Files and bytes as plain functions: digests, manifests, packages. Knows nothing of processes or of a cluster."""
