"""Checks of what a rootless daemon needs of the kernel and of the pod's security context."""

from __future__ import annotations

import re

from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.subordinate import ranges
from buildsvc.doctor.trials import NO_IDS, TUN, Trials

#: Overlay mounts in a user namespace, with user.* attributes for what needs trusted.* elsewhere.
_KERNEL = (5, 11)
#: Ids that images use, nobody (65534) left aside.
_FEW_IDS = 50_000
_SETGID, _SETUID = 6, 7
_SWITCHES = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}
_PROFILES = (
    "chart: cluster.kind unconfined, or localhost with the profile of deploy/seccomp on the nodes; "
    "pod: securityContext.seccompProfile and appArmorProfile of type Unconfined or Localhost"
)


def kernel(place: Place, _trials: Trials) -> Finding:
    """Overlay in a user namespace came with Linux 5.11."""
    numbers = tuple(int(word) for word in re.findall(r"\d+", place.release)[:2])
    if numbers >= _KERNEL:
        return Finding("kernel", "ok", f"Linux {place.release}")
    return Finding(
        "kernel", "fail", f"Linux {place.release}", "nodes with Linux 5.11 or newer, best 5.15"
    )


def user(place: Place, _trials: Trials) -> Finding:
    """Rootless means a user that is not root, with a name."""
    if place.uid == 0:
        advice = "run as another user; pod: runAsUser: 1000, as the images have it"
        return Finding("user", "warn", "root: a build that breaks out would be root too", advice)
    if not place.user:
        advice = "a line in /etc/passwd: subordinate ids are found by the user's name"
        return Finding("user", "fail", f"uid {place.uid} has no name", advice)
    return Finding("user", "ok", f"{place.user}, uid {place.uid}")


def user_namespaces(place: Place, trials: Trials) -> Finding:
    """Whether one can be made, tried."""
    if trials.userns:
        return Finding("user namespaces", "ok", "one was made")
    seen = trials.inside.get("user", "the process that tried it was killed")
    for path, off in _SWITCHES.items():
        if place.text(path) == off:
            name = ".".join(path.split("/")[3:])
            advice = f"node: sysctl {name} is {off}; set it to {'0' if off == '1' else '15000'}"
            return Finding("user namespaces", "fail", seen, advice)
    return Finding("user namespaces", "fail", seen, _PROFILES)


def host_users(place: Place, _trials: Trials) -> Finding:
    """Says which ids there are here."""
    if place.host_users:
        return Finding("host users", "ok", "ids are the host's (hostUsers: true)")
    known = ", ".join(f"{first} to {first + count - 1}" for first, count in place.ids())
    return Finding("host users", "ok", f"a user namespace with the ids {known}")


def subordinate_ids(place: Place, _trials: Trials) -> Finding:
    """There are some, and they exist here."""
    found = ranges(place)
    for kind, listed in (("uid", found.uids), ("gid", found.gids)):
        if not listed:
            advice = f"a line {place.user or 'USER'}:100000:65536 in /etc/sub{kind}"
            return Finding("subordinate ids", "fail", f"no sub{kind}s for this user", advice)
        first, count = listed[0]
        if not any(
            start <= first and first + count <= start + length for start, length in place.ids(kind)
        ):
            advice = (
                f"ranges that exist here, such as {place.user or 'USER'}:1001:60000; "
                "our images choose them by /proc/self/uid_map (getsubids)"
            )
            seen = f"sub{kind}s from {first}, {count} of them, are not all in /proc/self/{kind}_map"
            return Finding("subordinate ids", "fail", seen, advice)
    count = min(found.uids[0][1], found.gids[0][1])
    if count < _FEW_IDS:
        advice = "60000 or more: images with higher ids cannot be unpacked"
        return Finding("subordinate ids", "warn", f"{count} ids", advice)
    return Finding("subordinate ids", "ok", f"{count} ids from {found.uids[0][0]}")


def id_mapping(place: Place, trials: Trials) -> Finding:
    """newuidmap and newgidmap may map them, tried; what they need of the security context."""
    name = "id mapping"
    if trials.ids == "":
        return Finding(name, "ok", "newuidmap and newgidmap work")
    if place.status("NoNewPrivs") == "1":
        advice = "pod: allowPrivilegeEscalation: true (or leave it out) for the sidecar"
        return Finding(name, "fail", "no_new_privs is set: file capabilities do not count", advice)
    bounding = int(place.status("CapBnd") or "ff", 16)
    if not (bounding >> _SETUID & 1 and bounding >> _SETGID & 1):
        advice = "pod: capabilities: {drop: [ALL], add: [SETUID, SETGID]} for the sidecar"
        return Finding(name, "fail", "SETUID and SETGID are not in the bounding set", advice)
    if trials.ids is None:
        return Finding(name, "fail", "not tried without a user namespace", "first the others")
    if trials.ids == NO_IDS:
        return Finding(name, "fail", f"not tried: {trials.ids}", "first the others")
    advice = (
        "install uidmap (shadow-utils) with file capabilities instead of setuid: setcap "
        "cap_setuid=ep newuidmap, cap_setgid=ep newgidmap; not on a mount with nosuid"
    )
    return Finding(name, "fail", trials.ids, advice)


def seccomp(place: Place, trials: Trials) -> Finding:
    """A filter is fine if it lets a user namespace be made and mounted in."""
    modes = {"0": "no filter", "1": "strict", "2": "a filter"}
    seen = modes.get(place.status("Seccomp"), "unknown")
    if seen in ("a filter", "strict") and not (trials.userns and trials.inside.get("mounts") == ""):
        return Finding("seccomp", "fail", f"{seen}, under which namespaces fail", _PROFILES)
    return Finding("seccomp", "ok", seen)


def security_module(place: Place, trials: Trials) -> Finding:
    """AppArmor's or SELinux' label; it may forbid mounts."""
    label = place.text("/proc/self/attr/apparmor/current") or place.text("/proc/self/attr/current")
    seen = label or "no label"
    if trials.userns and trials.inside.get("mounts") == "" and trials.inside.get("overlay"):
        confined = bool(label) and "unconfined" not in seen
        if confined:
            return Finding("security module", "fail", f"{seen}, under which mounts fail", _PROFILES)
    return Finding("security module", "ok", seen)


def overlay(_place: Place, trials: Trials) -> Finding:
    """Layers are overlay mounts inside the user namespace, tried."""
    said = trials.inside.get("overlay")
    if said == "":
        return Finding("overlay", "ok", "mounted in a user namespace")
    seen = said or "not tried without a user namespace and mounts"
    advice = (
        "the sidecar's root on a file system of the node's, not on the container's own layers; "
        "the chart makes it so; pod: an emptyDir at BUILDSVC_ROOT"
    )
    return Finding("overlay", "fail", seen, advice if said else "first the others")


def process_sandbox(place: Place, trials: Trials) -> Finding:
    """A /proc of RUN steps' own needs that nothing of ours is masked; tried."""
    wanted = place.environ.get("BUILDSVC_PROCESS_SANDBOX", "off").lower() in ("on", "true", "1")
    if trials.inside.get("proc") == "":
        advice = "" if wanted else "--process-sandbox can be on: RUN steps see no process of ours"
        return Finding("process sandbox", "ok", "a /proc of its own can be mounted", advice)
    seen = trials.inside.get("proc") or "not tried"
    advice = "chart: cluster.kind userns; pod: hostUsers: false and procMount: Unmasked"
    if wanted:
        advice += ", or --process-sandbox off"
        return Finding("process sandbox", "fail", f"{seen}, and --process-sandbox is on", advice)
    return Finding(
        "process sandbox", "warn", f"{seen}: RUN steps see the sidecar's processes", advice
    )


def tun(place: Place, trials: Trials) -> Finding:
    """With the device, RUN steps have a network of their own."""
    wanted = place.environ.get("BUILDSVC_NETWORK", "auto")
    programs = [one for one in ("slirp4netns", "ip") if place.program(one) is None]
    if not trials.tun and not programs:
        return Finding("network of RUN steps", "ok", f"{TUN} opens: a network of their own")
    seen = f"{TUN}: {trials.tun}" if trials.tun else f"{', '.join(programs)} not on PATH"
    advice = (
        "chart: cluster.kind tun; pod: a runtimeClassName whose containers have /dev/net/tun. "
        "Without it the endpoint speaks mutual TLS"
    )
    if wanted == "slirp4netns":
        return Finding("network of RUN steps", "fail", f"{seen}, and --network wants it", advice)
    return Finding("network of RUN steps", "warn", f"{seen}: they share the pod's", advice)
