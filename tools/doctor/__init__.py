"""What is wrong with a node, each fault with its cure. Reads, never changes."""
