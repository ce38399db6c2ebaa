#!/usr/bin/env bash
# setup-system.sh [perf|cluster]     with the packages that only the comparison, or the test cluster, needs
#
# Prepares a Debian machine: packages, the device that slirp4netns needs, a user who can run rootless BuildKit.
# Changes only what is missing, and says what. Uses sudo for an ordinary user.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

# Compiler and headers: a Python dependency of the tests comes as source only.
packages=(
  ca-certificates gcc git libc6-dev libcap2-bin make
  busybox-static docker-registry iproute2 iputils-ping mmdebstrap python3-dev python3-venv
  runc slirp4netns uidmap util-linux zstd
)
# A peer of the comparison, and what carries another one's cache.
perf_packages=(buildah curl)
# runc of the cluster is linked with libseccomp.
cluster_packages=(containernetworking-plugins etcd-server jq libseccomp-dev nftables openssl pkg-config procps)
# Packages that start a service of their name.
serving=(docker-registry etcd)

install_packages() {
  local missing=() name new=()
  for name in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  say "installing with apt: ${missing[*]}"
  for name in "${serving[@]}"; do
    type -P "$name" >/dev/null || new+=("$name")
  done
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  for name in "${new[@]}"; do
    ! type -P "$name" >/dev/null || stop_packaged "$name"
  done
}

# A package starts a service of its own; ours are started when they are needed. One that was there before stays.
stop_packaged() {
  say "stopping the service $1 that its package brought"
  if [[ -d /run/systemd/system ]]; then
    as_root systemctl disable --now --quiet "$1"
  else
    as_root service "$1" stop >/dev/null || true
    as_root update-rc.d "$1" disable
  fi
}

rootless_user() {
  if [[ $(id -u) -eq 0 ]]; then
    if ! id -- builder >/dev/null 2>&1; then
      say "creating the user builder: rootless BuildKit does not run as root"
      useradd --create-home --shell /bin/bash builder
    fi
    printf 'builder\n'
  else
    id -un
  fi
}

# Rootless BuildKit maps the users of a layer to subordinate ids. useradd gives them to new users only.
give_subordinate_ids() {
  local user=$1 file first
  for file in /etc/subuid /etc/subgid; do
    ! grep -q "^$user:" "$file" 2>/dev/null || continue
    # Above every range that is taken.
    first=$(awk -F: 'BEGIN {top = 100000} $2 + $3 > top {top = $2 + $3} END {print top}' "$file" 2>/dev/null || echo 100000)
    say "giving $user the ids $first to $((first + 65535)) in $file"
    as_root usermod "--add-${file##*/}s" "$first-$((first + 65535))" "$user"
  done
}

# slirp4netns, which gives a build its own network, opens this device as the rootless user.
open_tun() {
  if [[ ! -c /dev/net/tun ]]; then
    say "making the device /dev/net/tun"
    as_root mkdir -p /dev/net
    as_root mknod /dev/net/tun c 10 200 || { say "no /dev/net/tun here: builds share the host's network, with mutual TLS"; return 0; }
  fi
  if [[ $(stat -c %a /dev/net/tun) != 666 ]]; then
    say "opening /dev/net/tun to all users (a device without rights: it acts on the opener's own network namespace)"
    as_root chmod 0666 /dev/net/tun
  fi
}

allow_user_namespaces() {
  local name
  # Names of Debian's and Ubuntu's switches; absent elsewhere.
  for name in kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0; do
    local path=/proc/sys/${name%=*}
    path=${path//kernel./kernel/}
    if [[ -e $path && $(<"$path") != "${name#*=}" ]]; then
      say "setting $name until the next start of the machine"
      as_root sysctl -q -w "$name"
    fi
  done
}

case "${1:-}" in
  "") ;;
  perf) packages+=("${perf_packages[@]}") ;;
  cluster) packages+=("${cluster_packages[@]}") ;;
  *) die "usage: setup-system.sh [perf|cluster]" ;;
esac
type -P apt-get >/dev/null || die "this script knows Debian and its relatives only; docs/dependencies.md lists what is needed"
install_packages
user=$(rootless_user)
give_subordinate_ids "$user"
open_tun
allow_user_namespaces
