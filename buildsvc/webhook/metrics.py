"""The webhook's metrics, in a registry of their own. docs/injection.md lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Every outcome of a review: those of an injection, and "failed" for an answer that was a defect.
OUTCOMES = ("injected", "not-asked", "present", "refused", "other", "failed")

#: Seconds. The API server gives up after those of its configuration, 10 by default.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """What one webhook counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reviews = Counter(
            "buildsvc_webhook_reviews", "Pods that were looked at, by what came of them.",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "buildsvc_webhook_review_seconds", "Time that an answer took.",
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._expiry = Gauge(
            "buildsvc_webhook_certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, seconds since 1970.", registry=self.registry,
        )  # fmt: skip
        self._rotations = Counter(
            "buildsvc_webhook_certificate_changes", "Serving certificates taken into use.",
            registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "buildsvc_webhook_certificate_errors", "Times that the certificate could not be kept.",
            registry=self.registry,
        )  # fmt: skip
        for outcome in OUTCOMES:
            self._reviews.labels(outcome)

    def reviewed(self, outcome: str, seconds: float) -> None:
        """Count one answer."""
        self._reviews.labels(outcome).inc()
        self._seconds.observe(seconds)

    def serves(self, expiry: float) -> None:
        """Note a certificate that is in use from now on, and when it ends."""
        self._rotations.inc()
        self._expiry.set(expiry)

    def keeping_failed(self) -> None:
        """Count a pass over the certificate that failed."""
        self._failures.inc()
