#!/usr/bin/env bash
# cluster.sh up        brings up a Kubernetes of one node on this machine, with real pods, and prints how to use it
# cluster.sh down      ends it, deletes what it kept, and undoes what it changed on the host
# cluster.sh status    says what of it runs; exit code 1 when something does not
# cluster.sh env       prints shell commands that make kubectl use it: eval "$(tools/cluster.sh env)"
#
# For tests: one node, certificates of its own, state in one directory ($BUILDSVC_CLUSTER, /var/lib/buildsvc-cluster).
# Pods are containers of containerd and runc; network policies are accepted and not enforced. docs/cluster-tests.md.
# Root is needed for that; for an ordinary user it starts itself again with sudo.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
if [[ $(id -u) -ne 0 ]]; then
  type -P sudo >/dev/null || die "a cluster needs root, and there is no sudo here: run it as root"
  exec sudo -- env BUILDSVC_TOOLS="$BUILDSVC_TOOLS" ${BUILDSVC_CLUSTER:+BUILDSVC_CLUSTER="$BUILDSVC_CLUSTER"} \
    "${BASH_SOURCE[0]}" "$@"
fi
umask 022

state=${BUILDSVC_CLUSTER:-/var/lib/buildsvc-cluster}
run=$state/run logs=$state/log keys=$state/keys
node=buildsvc-node bridge=buildsvc0
# Of 198.18.0.0/15, which nobody routes (RFC 2544). The node's address is that of the bridge: the pods' gateway.
pods=198.18.64.0/22 gateway=198.18.64.1 services=198.18.80.0/24 first_service=198.18.80.1
api=https://$gateway:6443
etcd=http://127.0.0.1:12379
# Of pods' images, and for what they push: outside the cluster, on an address that pods and builds reach.
registry_port=5080
registry=$("$tree/tools/registry.sh" address):$registry_port
programs=$("$tree/tools/cluster/build.sh" path)
export PATH=$programs:/usr/sbin:/usr/bin:/sbin:/bin
# shellcheck source=tools/cluster/processes.sh
. "$tree/tools/cluster/processes.sh"
# shellcheck source=tools/cluster/host.sh
. "$tree/tools/cluster/host.sh"
# shellcheck source=tools/cluster/plane.sh
. "$tree/tools/cluster/plane.sh"
# shellcheck source=tools/cluster/node.sh
. "$tree/tools/cluster/node.sh"

services_in_order=(containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

up() {
  "$tree/tools/setup-system.sh" cluster
  "$tree/tools/cluster/build.sh" >/dev/null
  local began=$SECONDS name
  for name in "${services_in_order[@]}"; do
    ! running "$name" || die "$name of a cluster in $state runs already: tools/cluster.sh down ends it"
  done
  mkdir -p "$run" "$logs" "$state"
  trap 'say "it did not come up; the logs are in $logs"; down keep-logs' EXIT
  save_sysctls
  make_network
  "$tree/tools/registry.sh" start "$state/registry" "$registry_port" >/dev/null
  make_certificates
  start_containerd
  start_plane
  start_node
  kubectl apply -f - >/dev/null <<YAML
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: buildsvc-tun}, handler: buildsvc-tun}
YAML
  trap - EXIT
  say "ready after $((SECONDS - began)) s; eval \"\$(tools/cluster.sh env)\" for kubectl"
}

down() {
  stop kubelet kube-proxy kube-scheduler kube-controller-manager
  stop kube-apiserver
  stop etcd
  end_containers
  stop containerd
  end_shims
  "$tree/tools/registry.sh" stop "$state/registry"
  unmount_all
  remove_network
  remove_cgroups
  restore_sysctls
  if [[ ${1:-} == keep-logs ]]; then
    find "$state" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf --one-file-system -- {} +
  else
    rm -rf --one-file-system -- "$state"
  fi
}

status() {
  local name code=0
  for name in "${services_in_order[@]}"; do
    if running "$name"; then
      printf '%-24s runs (process %s)\n' "$name" "$(<"$run/$name.pid")"
    else
      printf '%-24s does not run\n' "$name"
      code=1
    fi
  done
  [[ $code -ne 0 ]] || kubectl get nodes
  return "$code"
}

case "${1:-} $#" in
  "up 1") up ;;
  "down 1") down ;;
  "status 1") KUBECONFIG=$state/admin.kubeconfig status ;;
  "env 1")
    printf 'export KUBECONFIG=%q PATH=%q:$PATH\n' "$state/admin.kubeconfig" "$programs"
    printf 'export BUILDSVC_CLUSTER_REGISTRY=%q BUILDSVC_CLUSTER_CONTAINERD=%q\n' "$registry" "$socket"
    ;;
  *) die "usage: cluster.sh up | down | status | env" ;;
esac
