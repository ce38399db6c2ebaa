#!/usr/bin/env bash
# cluster/build.sh [path]     Builds the programs of the test cluster (Kubernetes, containerd, runc) from the Go modules
#                             beside this file into one directory, and prints it. `path`: prints it, built or not.
#
# A script of its own beside tools/build.sh, because only `make test-cluster` needs these, and runc needs cgo.
# The directory is named after the content of the modules, as there.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../env.sh"
umask 022

cd "$tree/tools/cluster"
current=$BUILDSVC_TOOLS/bin/current-cluster
key=cluster-$(content_key ./build.sh ./*/go.mod ./*/go.sum)

# install MODULE LDFLAGS TAGS: what its go.mod names as tools.
install_tools() { (cd "$1" && "$tree/tools/go" install -ldflags "-s -w $2" -tags "$3" tool); }

build() {
  export GOBIN=$1
  local version
  # Static, so that /usr/lib of the host is nothing they depend on; only runc needs a C library, for seccomp.
  export CGO_ENABLED=0
  say "building containerd (2 minutes)"
  install_tools containerd "" ""
  say "building Kubernetes (10 minutes)"
  # Kubernetes learns its version from the linker: without it, v0.0.0 is compared with its clients'.
  version=$(cd kubernetes && "$tree/tools/go" list -m -f '{{.Version}}' k8s.io/kubernetes)
  install_tools kubernetes "-X k8s.io/component-base/version.gitVersion=$version" ""
  say "building runc (half a minute)"
  CGO_ENABLED=1 install_tools runc "" seccomp
}

built_once "$current" "$key" "fifteen minutes" "$@"
