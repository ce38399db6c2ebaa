"""The two processes beside a build: the sidecar, and the agent inside the user namespace."""
