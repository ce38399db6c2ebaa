"""All checks, and which kinds of cluster a place fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from buildsvc.doctor import namespaces, network, programs, resources
from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import Trials, try_all

Check = Callable[[Place, Trials], Finding]

CHECKS: Sequence[Check] = (
    namespaces.kernel,
    namespaces.user,
    namespaces.host_users,
    namespaces.seccomp,
    namespaces.security_module,
    namespaces.user_namespaces,
    namespaces.subordinate_ids,
    namespaces.id_mapping,
    namespaces.overlay,
    namespaces.process_sandbox,
    namespaces.tun,
    resources.disk,
    resources.leases,
    resources.memory,
    resources.processors,
    resources.open_files,
    network.endpoint,
    network.metadata,
    network.store,
    programs.programs,
)
"""In the order in which they are shown: what others depend on comes first."""

KINDS: Mapping[str, str] = {
    "tun": "RUN steps have a network of their own; the endpoint is plain TCP",
    "userns": "RUN steps have a /proc of their own; ids are not the host's",
    "localhost": "a seccomp profile of the node's permits user namespaces",
    "unconfined": "no seccomp profile",
}
"""Values of the chart's cluster.kind, the best one first."""


@dataclass(frozen=True)
class Examination:
    """What came of it. ``kinds`` is what the place fits, the best first; empty if no build runs."""

    pod: bool
    kinds: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def builds(self) -> bool:
        """Whether a build can run."""
        return all(finding.state != "fail" for finding in self.findings)


def examine(place: Place, checks: Sequence[Check] = CHECKS) -> Examination:
    """Try what has to be tried, and run every check."""
    trials = try_all(place)
    findings = tuple(check(place, trials) for check in checks)
    return Examination(place.pod, kinds_of(place, trials), findings)


def kinds_of(place: Place, trials: Trials) -> tuple[str, ...]:
    """Return the kinds of cluster that the place fits."""
    if not trials.userns or trials.ids != "":
        return ()
    fits = {
        "tun": not trials.tun,
        "userns": not place.host_users and trials.inside.get("proc") == "",
        "localhost": place.status("Seccomp") == "2",
        "unconfined": place.status("Seccomp") == "0",
    }
    return tuple(kind for kind in KINDS if fits[kind])
