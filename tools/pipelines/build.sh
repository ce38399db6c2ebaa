#!/usr/bin/env bash
# build.sh [path]    Makes what checks deploy/pipelines, and prints the directory that has it: actionlint and tekton-check (Go),
#                    the demo and its tests, and a Python environment of its own in venv/. `path`: prints it, made or not.
#
# A set apart from tools/build.sh: the tests of the files alone need it. The directory is named after what it is made of.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../env.sh"
umask 022

# Debian's Groovy is the version that Jenkins has in it. As dependencies only what is missing comes along: a JRE, where there is none.
packages=(groovy shellcheck)
current=$BUILDSVC_TOOLS/pipelines/current
cd "$tree/tools/pipelines"
demo=$tree/deploy/pipelines/demo
key=$(content_key build.sh requirements.txt ./*/go.mod ./*/go.sum ./*/*.go "$demo"/go.mod "$demo"/*.go)
target=$BUILDSVC_TOOLS/pipelines/$key

install_packages() {
  local missing=() name
  for name in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  say "installing with apt: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

build() {
  local out=$1 module flags=(-tags "osusergo netgo" -ldflags "-s -w")
  for module in */go.mod; do
    module=${module%/go.mod}
    say "building $module"
    if grep -q '^tool' "$module/go.mod"; then
      (cd "$module" && GOBIN=$out CGO_ENABLED=0 "$tree/tools/go" install "${flags[@]}" tool)
    else
      (cd "$module" && CGO_ENABLED=0 "$tree/tools/go" build "${flags[@]}" -o "$out/$module" .)
    fi
  done
  say "building the demo"
  (cd "$demo" && CGO_ENABLED=0 "$tree/tools/go" build "${flags[@]}" -o "$out/web" .)
  (cd "$demo" && CGO_ENABLED=0 "$tree/tools/go" test -c "${flags[@]}" -o "$out/web.test" .)
}

# Where it stays: an environment names its own path, so that it cannot be made elsewhere and moved.
python_environment() {
  say "installing the Python programs"
  /usr/bin/python3 -m venv --clear "$1"
  "$1/bin/pip" install --quiet --no-deps --require-hashes --disable-pip-version-check --requirement requirements.txt >&2
}

if [[ ${1:-} == path ]]; then
  printf '%s\n' "$target"
  exit
fi
install_packages
if [[ -e $target/complete && $(readlink -- "$current") == "$key" ]]; then
  printf '%s\n' "$target"
  exit
fi
mkdir -p "$BUILDSVC_TOOLS/pipelines"
exec 9>"$BUILDSVC_TOOLS/pipelines/.lock"
flock 9
if [[ ! -e $target/complete ]]; then
  say "with an empty cache this takes about four minutes on two cores"
  mkdir -p "$target"
  build "$target"
  python_environment "$target/venv"
  touch "$target/complete"
fi
point_at "$current" "$key"
printf '%s\n' "$target"
