"""The process inside the user namespace: snapshotter for buildkitd, packer and unpacker for the sidecar."""
