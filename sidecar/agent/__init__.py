"""Inside the user namespace: the snapshotter, leases, and packing. No network, no secrets."""
