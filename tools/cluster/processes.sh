# The cluster's programs as processes: started apart from the terminal, known by the pid that was kept. Sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154  # run and logs are tools/cluster.sh's.

# start NAME CMD…: in a session of its own, so that a Ctrl-C in the terminal does not end it. It returns when the process has
# become the program, which takes a busy machine a while, or has ended.
start() {
  local name=$1 pid
  shift
  setsid "$@" >"$logs/$name.log" 2>&1 </dev/null &
  pid=$!
  printf '%s\n' "$pid" >"$run/$name.pid"
  until running "$name" || ! alive "$pid"; do sleep 0.01; done
}

# alive PID: neither gone nor a zombie; the first process of some machines takes its time to reap.
alive() { [[ -e /proc/$1 ]] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

# running NAME: the number may belong to somebody else's process by now, so its name has to fit too.
running() {
  local pid
  pid=$(cat "$run/$1.pid" 2>/dev/null) || return 1
  alive "$pid" && [[ $(tr '\0' '\n' <"/proc/$pid/cmdline" | head -n 1) == *"${1##*/}" ]]
}

# stop NAME…: all at once; SIGKILL after ten seconds.
stop() {
  local name pid waiting=()
  for name in "$@"; do
    if running "$name"; then
      pid=$(<"$run/$name.pid")
      kill "$pid"
      waiting+=("$pid")
    fi
    rm -f -- "$run/$name.pid"
  done
  wait_gone "${waiting[@]}" || for pid in "${waiting[@]}"; do ! alive "$pid" || kill -9 "$pid"; done
}

# wait_gone PID…: 1 if one of them is alive after ten seconds.
wait_gone() {
  local pid tries
  for ((tries = 0; tries < 100; tries++)); do
    for pid in "$@"; do
      if alive "$pid"; then
        sleep 0.1
        continue 2
      fi
    done
    return 0
  done
  return 1
}

# wait_for WHAT SECONDS NAME CMD…: until CMD succeeds; NAME is whose log tells why it does not.
wait_for() {
  local what=$1 end=$((SECONDS + $2)) name=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    if ! running "$name" || ((SECONDS >= end)); then
      tail -n 5 "$logs/$name.log" >&2
      die "no $what; the log of $name is $logs/$name.log"
    fi
    sleep 0.1
  done
}
