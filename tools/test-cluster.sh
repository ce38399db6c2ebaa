#!/usr/bin/env bash
# test-cluster.sh [ARG…]     brings the test cluster up, builds the images into its registry, runs the tests of tests/cluster,
#                            and takes the cluster down again; ARGs go to pytest
#
# With BUILDSVC_KEEP_CLUSTER set it stays up, and one that is up is used: for who writes these tests.
# The tests run as root, because the cluster is root's; what they test runs unprivileged, in pods.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
if [[ $(id -u) -ne 0 ]]; then
  type -P sudo >/dev/null || die "the test cluster needs root, and there is no sudo here: run it as root"
  exec sudo -- env BUILDSVC_TOOLS="$BUILDSVC_TOOLS" ${BUILDSVC_KEEP_CLUSTER:+BUILDSVC_KEEP_CLUSTER=1} "${BASH_SOURCE[0]}" "$@"
fi

cd "$tree"
cluster=$tree/tools/cluster.sh
if [[ -n ${BUILDSVC_KEEP_CLUSTER:-} ]]; then
  "$cluster" status >/dev/null 2>&1 || "$cluster" up
else
  # One that does not come up ends itself, and keeps its logs.
  "$cluster" up
  trap '"$cluster" down' EXIT
fi
settings=$("$cluster" env)
eval "$settings"
helm=$("$tree/tools/deploy/build.sh")
programs=$(made_for_tree build.sh)
venv=$(made_for_tree venv.sh)
# Another tag for another content: the node would keep what it has under an old one.
tag=test-$(git -c safe.directory='*' rev-parse --short=12 HEAD)-$(date +%s)
say "building the images"
tools/base-image.sh golang >/dev/null
tools/as-builder python tools/images.py push "$BUILDSVC_CLUSTER_REGISTRY" --tag "$tag" --base golang
caches=/var/cache/buildsvc/test-cluster
mkdir -p "$caches"
say "pytest tests/cluster $*"
# A file's tests stay together: those of a file share an installation, or the metadata address.
env BUILDSVC_CLUSTER_TAG="$tag" PATH="$PATH:$helm:$programs" PYTHONPYCACHEPREFIX="$caches" PYTHONDONTWRITEBYTECODE=1 \
  "$venv/bin/python" -m pytest -m cluster --numprocesses 3 --dist loadfile tests/cluster "$@"
