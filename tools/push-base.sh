#!/usr/bin/env bash
# push-base.sh BUILDKIT_ADDR REGISTRY [KIND [REVISION]]
# Builds a base image from its root file system (base-image.sh KIND, debian when none is named) with the given
# buildkitd, pushes it, and prints its name. With a REVISION, which is a number, it has one more layer with one file:
# another image, as after an update of the base.
# The buildkitd must know that REGISTRY speaks plain HTTP (see registry.sh).
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

(($# >= 2 && $# <= 4)) || die "usage: push-base.sh BUILDKIT_ADDR REGISTRY [KIND [REVISION]]"
kind=${3:-debian}
revision=${4:-}
case $kind in
  debian) name=$2/base/debian:bookworm ;;
  *) name=$2/base/$kind:latest ;;
esac

bin=$(made_for_tree build.sh)
rootfs=$("$tree/tools/base-image.sh" "$kind")
context=$(mktemp -d)
trap 'rm -rf -- "$context"' EXIT
# A hard link where that is possible: the file is large.
ln -- "$rootfs" "$context/rootfs.tar" 2>/dev/null || cp -- "$rootfs" "$context/rootfs.tar"
printf 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sh"]\n' >"$context/Dockerfile"
if [[ -n $revision ]]; then
  name+=-$revision
  printf '%s\n' "$revision" >"$context/revision"
  printf 'COPY revision /etc/base-revision\n' >>"$context/Dockerfile"
fi
"$bin/buildctl" --addr "$1" build --progress=quiet --frontend dockerfile.v0 \
  --local "context=$context" --local "dockerfile=$context" \
  --output "type=image,name=$name,push=true" >&2
printf '%s\n' "$name"
