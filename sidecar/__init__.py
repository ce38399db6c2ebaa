"""The two processes beside a build: the sidecar outside the user namespace and the agent inside it."""
