#!/usr/bin/env bash
# push-base.sh BUILDKIT_ADDR REGISTRY [debian|busybox]
# Builds a base image from its root file system with the given buildkitd, pushes it, and prints its name.
# The buildkitd must know that REGISTRY speaks plain HTTP (see registry.sh).
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

[[ $# -eq 2 || $# -eq 3 ]] || die "usage: push-base.sh BUILDKIT_ADDR REGISTRY [debian|busybox]"
kind=${3:-debian}
case $kind in
  debian) name=$2/base/debian:bookworm ;;
  busybox) name=$2/base/busybox:latest ;;
  *) die "there is no base image $kind" ;;
esac

bin=$(made_for_tree build.sh)
rootfs=$("$tree/tools/base-image.sh" "$kind")
context=$(mktemp -d)
trap 'rm -rf -- "$context"' EXIT
# A hard link where that is possible: the file is large.
ln -- "$rootfs" "$context/rootfs.tar" 2>/dev/null || cp -- "$rootfs" "$context/rootfs.tar"
printf 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sh"]\n' >"$context/Dockerfile"
"$bin/buildctl" --addr "$1" build --progress=quiet --frontend dockerfile.v0 \
  --local "context=$context" --local "dockerfile=$context" \
  --output "type=image,name=$name,push=true" >&2
printf '%s\n' "$name"
