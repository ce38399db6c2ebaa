#!/usr/bin/env bash
# registry.sh address              prints the address on which `start` listens, creating it where it is missing
# registry.sh start DIR PORT       starts Debian's docker-registry with its data below DIR and prints HOST:PORT.
#                                  With DIR/cert.pem and DIR/key.pem it speaks TLS, with DIR/htpasswd it wants a password
# registry.sh stop DIR             stops the one that was started on DIR
#
# A build in a network namespace of its own cannot, and must not, reach the host's loopback: slirp4netns blocks
# 127.0.0.0/8. So the registry gets an address that is the host's but not 127.x: one of 198.18.0.0/15, which RFC 2544
# keeps for benchmarks and nobody routes, on the loopback interface. Nothing on the outside can reach it by accident.
# Without a certificate it speaks plain HTTP: BuildKit needs `[registry."HOST:PORT"] http = true` in its configuration.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

address=${BUILDSVC_REGISTRY_ADDRESS:-198.18.213.1}

ensure_address() {
  [[ -z $(ip -4 -o addr show to "$address") ]] || return 0
  as_root ip addr add "$address/32" dev lo || die "cannot add $address to the loopback interface; run tools/setup-system.sh as root first, or set BUILDSVC_REGISTRY_ADDRESS to an address of this host outside 127.0.0.0/8"
}

answers() { exec 3<>"/dev/tcp/$address/$1" && exec 3>&-; }

start() {
  local dir=$1 port=$2 pid tls="" auth=""
  ensure_address
  ! answers "$port" 2>/dev/null || die "something already listens on $address:$port"
  mkdir -p "$dir/data"
  [[ ! -e $dir/cert.pem ]] || tls=", tls: {certificate: $dir/cert.pem, key: $dir/key.pem}"
  [[ ! -e $dir/htpasswd ]] || auth="auth: {htpasswd: {realm: registry, path: $dir/htpasswd}}"
  cat >"$dir/config.yml" <<YML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $dir/data}
  delete: {enabled: true}
http: {addr: "$address:$port"$tls}
$auth
YML
  # Its own session: a Ctrl-C meant for the caller does not end it.
  setsid docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
  pid=$!
  printf '%s\n' "$pid" >"$dir/pid"
  for _ in {1..100}; do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 5 "$dir/log" >&2
      die "docker-registry ended at once; its log is $dir/log"
    fi
    if answers "$port" 2>/dev/null; then
      printf '%s:%s\n' "$address" "$port"
      return
    fi
    sleep 0.1
  done
  kill "$pid"
  die "docker-registry did not answer on $address:$port within 10 s; its log is $dir/log"
}

stop() {
  local dir=$1 pid
  [[ -s $dir/pid ]] || return 0
  pid=$(<"$dir/pid")
  # The number may belong to another process by now.
  if [[ $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || true) == *"$dir/config.yml"* ]]; then
    kill "$pid"
    timeout 10 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
  fi
  rm -f -- "$dir/pid"
}

case "${1:-} $#" in
  "address 1") ensure_address && printf '%s\n' "$address" ;;
  "start 3") start "$2" "$3" ;;
  "stop 2") stop "$2" ;;
  *) die "usage: registry.sh address | start DIR PORT | stop DIR" ;;
esac
