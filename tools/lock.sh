#!/usr/bin/env bash
# Renews the locks from their *.in files. Commit the result.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

compile=$(made_for_tree venv.sh)/bin/pip-compile
# A directory of this machine's wheels would become a line of the lock.
unset PIP_FIND_LINKS

lock() {
  say "locking $1/$2.in"
  (cd "$tree/$1" && "$compile" --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file "$2.txt" "$2.in")
}

lock requirements base
lock requirements dev
lock perf/sample requirements
lock perf/scenarios/monorepo requirements
