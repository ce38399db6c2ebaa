#!/usr/bin/env bash
# build.sh [path]    Builds the Go programs that check what deploy/ ships (Helm) into one directory and prints its path.
#                    `path`: prints it, built or not.
#
# A directory apart from that of tools/build.sh, named after the content of these modules alone: what builds and tests
# need does not have to be built again when a program of this kind changes, and the other way round.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../env.sh"
umask 022

cd "$tree/tools/deploy"
current=$BUILDSVC_TOOLS/bin/current-deploy
key=$(content_key "$tree/tools/deploy/build.sh" ./*/go.mod ./*/go.sum)

build() {
  local module ldflags minor package
  for module in */go.mod; do
    module=${module%/go.mod}
    say "building $module"
    ldflags="-s -w"
    if [[ $module == helm ]]; then
      # Helm learns from the linker for which Kubernetes it renders where it asks none: that of its client library.
      minor=$(cd "$module" && "$tree/tools/go" list -m -f '{{.Version}}' k8s.io/client-go | cut -d . -f 2)
      for package in chartutil lint/rules; do
        ldflags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
      done
    fi
    (cd "$module" && GOBIN=$1 CGO_ENABLED=0 "$tree/tools/go" install -tags "osusergo netgo" -ldflags "$ldflags" tool)
  done
}

built_once "$current" "$key" "two minutes" "$@"
