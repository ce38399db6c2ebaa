#!/usr/bin/env bash
# check.sh lint                 ruff, mypy and the import contracts
# check.sh test [ARG…]          the tests with coverage; ARGs go to pytest
#
# Writes nothing into the tree, which may belong to another user: all caches lie in the user's own cache directory.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

cd "$tree"
bin=$(made_for_tree venv.sh)/bin
# One for each tree: mypy knows files by their path in it, and two trees would mix their coverage.
caches=${XDG_CACHE_HOME:-$HOME/.cache}/buildsvc/checks/$(sha256sum <<<"$tree" | cut -c1-16)
mkdir -p "$caches"
export RUFF_CACHE_DIR=$caches/ruff MYPY_CACHE_DIR=$caches/mypy COVERAGE_FILE=$caches/coverage/data
export HYPOTHESIS_STORAGE_DIRECTORY=$caches/hypothesis PYTHONPYCACHEPREFIX=$caches/pycache

lint() {
  local targets=() dir
  for dir in buildsvc sidecar deploy tests tools perf setup.py; do
    [[ ! -e $dir ]] || targets+=("$dir")
  done
  say "ruff"
  "$bin/ruff" check "${targets[@]}"
  "$bin/ruff" format --check "${targets[@]}"
  say "mypy --strict"
  "$bin/mypy" --strict "${targets[@]}"
  say "import contracts"
  "$bin/lint-imports" --no-logo --cache-dir "$caches/import-linter"
}

# Unit tests sync thousands of small files, and a disk may be throttled: in memory, where there is enough.
units() {
  local needed_kib=$((4 << 20)) free_kib=0 available_kib
  [[ ! -w /dev/shm ]] || free_kib=$(df --output=avail --block-size=1K /dev/shm | tail -n 1)
  available_kib=$(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo)
  if ((free_kib >= needed_kib && available_kib >= needed_kib)); then
    PYTEST_DEBUG_TEMPROOT=$(mktemp -d /dev/shm/test-XXXXXX)
    export PYTEST_DEBUG_TEMPROOT
    trap 'rm -rf -- "$PYTEST_DEBUG_TEMPROOT"' EXIT
  fi
  suite --numprocesses auto tests/unit
}

suite() {
  say "pytest $*"
  "$bin/coverage" run --rcfile=pyproject.toml -m pytest "$@"
}

tests() {
  # An older run's data would be added to this one's.
  rm -rf -- "$caches/coverage"
  mkdir -p "$caches/coverage"
  local status=0
  if (($#)); then
    suite "$@" || status=$?
  else
    # A module of those of the real daemon waits for it much of the time, so that two of them fit.
    (units) || status=$?
    suite --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/integration || status=$?
  fi
  "$bin/coverage" combine --quiet
  "$bin/coverage" report --format=total | sed 's/^/coverage in percent: /'
  return "$status"
}

case "${1:-}" in
  lint) lint ;;
  test)
    shift
    tests "$@"
    ;;
  *) die "usage: check.sh lint | test [ARG…]" ;;
esac
