# What the cluster changes on the host, and how that is undone: sysctls, a bridge, packet filters, mounts, cgroups. Sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154  # state, run, bridge, pods and gateway are tools/cluster.sh's.

# Those that the kubelet sets, and the one that lets pods reach the outside.
sysctls=(
  vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes net.ipv4.ip_forward
)

save_sysctls() {
  local name
  # What a run that was killed saved is how the host was; what is there now is not.
  [[ ! -s $run/sysctls ]] || return 0
  for name in "${sysctls[@]}"; do printf '%s=%s\n' "$name" "$(sysctl -n "$name")"; done >"$run/sysctls.new"
  mv -- "$run/sysctls.new" "$run/sysctls"
}

restore_sysctls() { [[ ! -s $run/sysctls ]] || sysctl -q -p "$run/sysctls"; }

make_network() {
  [[ -e /sys/class/net/$bridge ]] || ip link add "$bridge" type bridge
  # Its own MAC, to keep. A bridge without one takes the lowest of its ports: when that pod ends, the others go on
  # sending to it until their neighbour tables forget it, and reach nothing for many seconds. The plugin sets it only
  # where it sets the address.
  ip link set "$bridge" address "$(<"/sys/class/net/$bridge/address")"
  ip address replace "$gateway/${pods#*/}" dev "$bridge"
  ip link set "$bridge" up
  # The CNI plugin of Debian masquerades with iptables, which may be missing: nft does it here.
  nft -f - <<NFT
table ip $bridge
delete table ip $bridge
table ip $bridge {
  chain outside {
    type nat hook postrouting priority srcnat;
    ip saddr $pods ip daddr != $pods oifname != "lo" masquerade
  }
}
NFT
  mkdir -p "$run/cni.d"
  cat >"$run/cni.d/10-pods.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "$bridge", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$run/cni",
            "ranges": [[{"subnet": "$pods", "rangeStart": "${gateway%.*}.10", "gateway": "$gateway"}]]}}]}
JSON
}

remove_network() {
  local table
  [[ ! -e /sys/class/net/$bridge ]] || ip link delete "$bridge"
  # kube-proxy leaves its own when it ends.
  for table in "ip $bridge" "ip kube-proxy" "ip6 kube-proxy"; do
    # shellcheck disable=SC2086  # two words
    ! nft list table $table >/dev/null 2>&1 || nft delete table $table
  done
}

# Pods' volumes and root file systems, innermost first.
unmount_all() {
  local mounts
  mapfile -t mounts < <(awk -v dir="$state/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | tac)
  [[ ${#mounts[@]} -eq 0 ]] || umount --lazy -- "${mounts[@]}" 2>/dev/null || true
}

remove_cgroups() {
  find /sys/fs/cgroup -depth -type d \( -path '*/kubepods*' -o -path '*/k8s.io*' \) -exec rmdir -- {} + 2>/dev/null || true
}
