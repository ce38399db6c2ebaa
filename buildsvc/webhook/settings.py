"""Settings of the webhook: flags (``--template``), variables (``BUILDSVC_WEBHOOK_TEMPLATE``)."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from buildsvc.errors import ConfigError
from buildsvc.logsettings import LogFormat, LogLevel, format_setting, level_setting
from buildsvc.setting import (
    Collected,
    WrongSettings,
    flag_name,
    read_values,
    setting,
    settings_of,
)
from buildsvc.values import between, parse_duration, parse_name, parse_path, several

PREFIX = "BUILDSVC_WEBHOOK_"

#: Where a pod finds the name of its own namespace.
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SERVING, _CLUSTER, _OUT = "serving", "cluster", "reporting"


def parse_listen(value: object) -> tuple[str, int]:
    """Return host and port of HOST:PORT, :PORT or [V6]:PORT."""
    host, colon, port = str(value).rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{value!r} is not an address; write 0.0.0.0:8443 or [::]:8443")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The effective settings of one webhook, checked."""

    template: Path = setting(
        parse_path,
        "/etc/buildsvc/injection/pod.yaml",
        "The injection template; it is read again when it changes.",
        "FILE",
        _SERVING,
    )
    listen: tuple[str, int] = setting(
        parse_listen, "0.0.0.0:8443", "Where the API server asks, over TLS.", "HOST:PORT", _SERVING
    )
    http_listen: tuple[str, int] = setting(
        parse_listen,
        "0.0.0.0:8378",
        "Where /healthz, /readyz and /metrics are served, over plain HTTP.",
        "HOST:PORT",
        _SERVING,
    )
    drain: float = setting(
        between(parse_duration, "0s", "60s"),
        "5s",
        "How long to go on serving after SIGTERM: until nobody is sent here any more.",
        "DURATION",
        _SERVING,
    )
    namespace: str | None = setting(
        parse_name,
        None,
        "Namespace of service and Secret. Default: the pod's own.",
        "NAME",
        _CLUSTER,
    )
    service: str = setting(
        parse_name,
        "buildsvc-webhook",
        "Service through which the API server reaches the webhook.",
        "NAME",
        _CLUSTER,
    )
    host: tuple[str, ...] = setting(
        several(parse_name),
        (),
        "Another name or address under which it is reached, for a configuration that has a URL. "
        "May be repeated.",
        "HOST",
        _CLUSTER,
    )
    secret: str = setting(
        parse_name,
        "buildsvc-webhook-tls",
        "Secret that the replicas keep their certificate in.",
        "NAME",
        _CLUSTER,
    )
    configuration: str = setting(
        parse_name,
        "buildsvc-webhook",
        "MutatingWebhookConfiguration whose caBundle is kept.",
        "NAME",
        _CLUSTER,
    )
    certificate_lifetime: float = setting(
        between(parse_duration, "1h", "3650d"),
        "90d",
        "How long a certificate is valid; it is replaced when a third is left.",
        "DURATION",
        _CLUSTER,
    )
    kubeconfig: Path | None = setting(
        parse_path, None, "Kubeconfig, to run outside of a pod.", "FILE", _CLUSTER
    )
    log_format: LogFormat = format_setting(_OUT)
    log_level: LogLevel = level_setting(_OUT)

    @property
    def own_namespace(self) -> str:
        """The namespace, default applied. Raises ConfigError where there is none."""
        found = self.namespace
        if found is None:
            with suppress(OSError):
                found = _NAMESPACE.read_text(encoding="ascii").strip()
        if not found:
            raise ConfigError("the namespace is not known", advice="say it with --namespace")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the certificate is for, the service's first."""
        return (f"{self.service}.{self.own_namespace}.svc", *self.host)

    @property
    def lifetime(self) -> timedelta:
        """How long a certificate is valid."""
        return timedelta(seconds=self.certificate_lifetime)


SETTINGS = settings_of(Settings)
"""Every setting by name, in the order of the help."""


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a command line and of variables; what is empty counts as not given.

    Raises ConfigError that lists every problem with its origin.
    """
    found = Collected(SETTINGS)
    for name, value in flags.items():
        found.offer(name, value, flag_name(name))
    found.offer_variables(environ, PREFIX)
    known, problems = read_values(SETTINGS, found.values)
    found.complain(WrongSettings(problems))
    if found.problems:
        raise ConfigError("\n".join(["the settings are wrong:", *found.problems]))
    return Settings(**known)
