#!/usr/bin/env bash
# base-image.sh debian|busybox     makes a root file system once, and prints the path of its tar file
#
# There may be no registry to pull from, so base images are made of distribution packages. The host's CA bundle goes in
# as /usr/local/share/buildsvc-ca.crt: where HTTPS passes through a private CA, a RUN step finds it by
# `ENV PIP_CERT=/usr/local/share/buildsvc-ca.crt` (SSL_CERT_FILE and REQUESTS_CA_BUNDLE for other programs).
# It is under a name of its own, so that the package ca-certificates, installed later, does not overwrite it.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
umask 022

suite=bookworm
ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
kind=${1:-}
[[ $# -eq 1 && ( $kind == debian || $kind == busybox ) ]] || die "usage: base-image.sh debian|busybox"

make_debian() {
  local out=$1 hook
  # Device nodes cannot be made in a user namespace, where the layer is unpacked; runc makes its own.
  # apt's lists go too: a RUN step updates them anyway.
  hook="copy-in $work/buildsvc-ca.crt /usr/local/share"
  mmdebstrap --quiet --variant=minbase --mode=auto \
    --customize-hook="$hook" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" - | tar --delete --wildcards './dev/*' >"$out"
}

make_busybox() {
  local out=$1 root=$work/rootfs
  mkdir -p "$root"/{bin,etc,root,tmp,usr/local/share,var}
  chmod 1777 "$root/tmp"
  cp /usr/bin/busybox "$root/bin/busybox"
  local applet
  for applet in $("$root/bin/busybox" --list); do
    [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
  cp "$work/buildsvc-ca.crt" "$root/usr/local/share/"
  tar --create --file="$out" --directory="$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
}

images=$BUILDSVC_TOOLS/images
# The CA is part of the key; so is the month: a base that is older has security fixes missing.
key=$({ cat -- "$ca" "${BASH_SOURCE[0]}"; date -u +%Y-%m; } | sha256sum | cut -c1-16)
tar=$images/$kind-$key.tar
# Without the lock first: the rootless user may read the cache of root, not write it.
if [[ -s $tar ]]; then
  printf '%s\n' "$tar"
  exit
fi
mkdir -p "$images"
exec 9>"$images/.$kind.lock"
flock 9
if [[ ! -s $tar ]]; then
  work=$(mktemp -d)
  trap 'rm -rf -- "$work" "$tar.part"' EXIT
  # mmdebstrap's child processes, which are not root on every machine, read from here.
  chmod 0755 "$work"
  install -m 0644 "$ca" "$work/buildsvc-ca.crt"
  say "making the $kind base image (Debian: about a minute, the first time)"
  "make_$kind" "$tar.part"
  mv -- "$tar.part" "$tar"
fi
printf '%s\n' "$tar"
