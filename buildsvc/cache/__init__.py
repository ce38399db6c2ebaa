"""The cache format: chunks, packs, trees, roots, and the log of generations of a key."""
