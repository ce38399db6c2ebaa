#!/usr/bin/env bash
# build.sh [path]          Builds every Go module of tools/ into one directory and prints its path: the programs that its
#                          go.mod names as tools, and its own tests as MODULE.test. `path`: prints it, built or not.
# build.sh peers [path]    The same for tools/peers/, which only the comparison needs.
#
# The directory is named after the content of the modules.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
umask 022

modules=tools current=$BUILDSVC_TOOLS/bin/current minutes=ten
if [[ ${1:-} == peers ]]; then
  modules=tools/peers current+=-peers minutes=fifteen
  shift
fi
cd "$tree/$modules"
shopt -s nullglob
key=$(content_key "$tree/tools/build.sh" ./*/go.mod ./*/go.sum ./*/*.go)

build() {
  local out=$1 module ldflags version
  for module in */go.mod; do
    module=${module%/go.mod}
    say "building $module"
    ldflags="-s -w"
    if [[ $module == buildkit ]]; then
      # BuildKit learns its version from the linker; the sidecar compares it with the one that wrote a cache.
      version=$(cd "$module" && "$tree/tools/go" list -m -f '{{.Version}}' github.com/moby/buildkit)
      ldflags+=" -X github.com/moby/buildkit/version.Version=$version"
    fi
    # No cgo: static binaries, which run in any container image.
    if grep -q '^tool' "$module/go.mod"; then
      (cd "$module" && GOBIN=$out CGO_ENABLED=0 "$tree/tools/go" install -tags "osusergo netgo" -ldflags "$ldflags" tool)
    else
      (cd "$module" && CGO_ENABLED=0 "$tree/tools/go" test -c -tags "osusergo netgo" -ldflags "$ldflags" -o "$out/$module.test")
    fi
  done
}

built_once "$current" "$key" "$minutes minutes" "$@"
