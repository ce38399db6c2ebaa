#!/usr/bin/env bash
# Renews the locks from their *.in files. Commit the result.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

compile=$(made_for_tree venv.sh)/bin/pip-compile
# A directory of this machine's wheels would become a line of the lock.
unset PIP_FIND_LINKS

# lock DIR NAME [ARG…]: locks NAME.in; ARGs are more files and options.
lock() {
  say "locking $1/$2.in"
  (cd "$tree/$1" && "$compile" --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file "$2.txt" "$2.in" "${@:3}")
}

lock requirements base
# The wheel's extra `service` is read from its file too, which therefore has no line that only pip knows.
lock requirements service base.in --constraint base.txt
lock requirements dev
lock perf/sample requirements
lock perf/scenarios/monorepo requirements
lock tools/pipelines requirements
