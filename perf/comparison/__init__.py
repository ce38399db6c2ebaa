"""buildsvc beside its peers, on networks like those of a cloud: `make perf`."""
