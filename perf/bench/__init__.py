"""The sidecar beside a warm daemon and a registry cache, on loopback: `make bench`."""
