"""The mutating admission webhook that puts the sidecar into pods that ask for it.

docs/injection.md says what it does to a pod, and what the template is that it works from.
"""
