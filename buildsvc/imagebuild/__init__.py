"""The image-build step of a pipeline: builds on the sidecar beside it, pushes, checks, reports."""
