# The node: containerd, the kubelet and kube-proxy, and the end of what they started. Sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154  # state, run, logs, keys, node, pods, gateway, registry and programs are tools/cluster.sh's.

socket=$run/containerd.sock
pause=localhost/pause:1

# runtime NAME [LINE]: a section of containerd's configuration.
runtime() {
  cat <<TOML
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.$1]
    runtime_type = "io.containerd.runc.v2"
    ${2:-}
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.$1.options]
      BinaryName = "$programs/runc"
      SystemdCgroup = false
TOML
}

# What containerd gives every container, with the device that slirp4netns needs. A hostPath cannot bring that into a pod with
# hostUsers: false. Without the limits of who runs this script.
tun_spec() {
  ctr oci spec | jq 'del(.process.rlimits)
    | .linux.devices = [{path: "/dev/net/tun", type: "c", major: 10, minor: 200, fileMode: 438, uid: 0, gid: 0}]
    | .linux.resources.devices += [{allow: true, type: "c", major: 10, minor: 200, access: "rwm"}]'
}

# The registry speaks plain HTTP.
trust_registry() {
  mkdir -p "$run/registries/$registry"
  printf 'server = "http://%s"\n' "$registry" >"$run/registries/$registry/hosts.toml"
}

start_containerd() {
  tun_spec >"$run/tun.json"
  trust_registry
  {
    # oom scores: below that of the one who starts it none can be set without CAP_SYS_RESOURCE.
    cat <<TOML
version = 3
root = "$state/containerd"
state = "$run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins.'io.containerd.internal.v1.opt']
  path = "$state/opt"
[grpc]
  address = "$socket"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "$pause"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "$run/registries"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$run/cni.d"
TOML
    runtime runc
    runtime buildsvc-tun "base_runtime_spec = \"$run/tun.json\""
  } >"$run/containerd.toml"
  start containerd containerd --config "$run/containerd.toml"
  wait_for "answer of containerd" 30 containerd ctr --address "$socket" version
  /usr/bin/python3 "$tree/tools/cluster/pause_image.py" /usr/bin/busybox "$pause" |
    ctr --address "$socket" --namespace k8s.io images import - >"$logs/pause.log" 2>&1
}

start_node() {
  local profiles=$state/kubelet/seccomp
  mkdir -p "$profiles"
  [[ ! -d $tree/deploy/seccomp ]] || cp -- "$tree"/deploy/seccomp/*.json "$profiles/"
  cat >"$run/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# The development machines have cgroup v1.
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://$socket
address: $gateway
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $keys/ca.crt}}
authorization: {mode: Webhook}
failSwapOn: false
makeIPTablesUtilChains: false
evictionHard: {memory.available: 200Mi}
imageGCHighThresholdPercent: 100
# Sooner than by default: tests wait for it.
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
podLogsDir: $state/podlogs
volumePluginDir: $state/volumeplugins
registryPullQPS: 0
serializeImagePulls: false
maxPods: 110
YAML
  start kubelet kubelet --config="$run/kubelet.yaml" --kubeconfig="$state/kubelet.kubeconfig" \
    --hostname-override="$node" --node-ip="$gateway" --root-dir="$state/kubelet" --cert-dir="$keys"
  cat >"$run/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $state/admin.kubeconfig}
hostnameOverride: $node
clusterCIDR: $pods
bindAddress: 127.0.0.1
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0}
YAML
  start kube-proxy kube-proxy --config="$run/kube-proxy.yaml"
  wait_for "node" 30 kubelet kubectl get node "$node"
  kubectl wait --for=condition=Ready "node/$node" --timeout=90s >/dev/null
  wait_for "default service account" 30 kube-controller-manager kubectl get serviceaccount default
}

# What the kubelet left when it was stopped: it ends no pod by itself.
end_containers() {
  local name ctr=(ctr --address "$socket" --namespace k8s.io)
  [[ -S $socket ]] && running containerd || return 0
  for name in $("${ctr[@]}" tasks list --quiet); do
    "${ctr[@]}" tasks kill --signal KILL "$name" 2>/dev/null || true
  done
  for name in $("${ctr[@]}" containers list --quiet); do
    "${ctr[@]}" tasks delete --force "$name" >/dev/null 2>&1 || true
    "${ctr[@]}" containers delete "$name" >/dev/null 2>&1 || true
  done
}

# Shims outlive containerd. Known by the socket of this containerd in their command line, ended one by one.
end_shims() {
  local pid
  for pid in $(pgrep -f -- "containerd-shim-runc-v2 .*-address $socket" || true); do
    kill -9 "$pid"
  done
}
