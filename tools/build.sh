#!/usr/bin/env bash
# Builds every Go tools module below tools/ into one directory and prints its path.
# The directory is named after the content of all go.mod and go.sum files: nothing is built twice, and an old
# checkout still finds its own versions.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
umask 022

cd "$BUILDSVC_ROOT/tools"
modules=(*/go.mod)
key=$(content_key build.sh "${modules[@]}" "${modules[@]/%go.mod/go.sum}")
target=$BUILDSVC_TOOLS/bin/$key

build() {
  local out=$1 module version
  for module in "${modules[@]%/go.mod}"; do
    say "building $module (buildkit: about two minutes on two cores, the first time)"
    local ldflags="-s -w"
    if [[ $module == buildkit ]]; then
      # BuildKit learns its version from the linker; the sidecar compares it with the one that wrote a cache.
      version=$(cd "$module" && "$BUILDSVC_ROOT/tools/go" list -m -f '{{.Version}}' github.com/moby/buildkit)
      ldflags+=" -X github.com/moby/buildkit/version.Version=$version"
    fi
    # No cgo: static binaries, which run in any container image.
    (cd "$module" && GOBIN=$out CGO_ENABLED=0 "$BUILDSVC_ROOT/tools/go" install -tags "osusergo netgo" -ldflags "$ldflags" tool)
  done
}

mkdir -p "$BUILDSVC_TOOLS/bin"
exec 9>"$BUILDSVC_TOOLS/bin/.lock"
flock 9
if [[ ! -d $target ]]; then
  part=$(mktemp -d "$BUILDSVC_TOOLS/bin/.part.XXXXXX")
  trap 'rm -rf -- "$part"' EXIT
  build "$part"
  chmod 0755 "$part"
  mv -T -- "$part" "$target"
fi
point_at "$BUILDSVC_BIN" "$key"
printf '%s\n' "$target"
