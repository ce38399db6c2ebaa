"""Object stores: one small contract, its implementations, and wrappers that add one thing each."""
