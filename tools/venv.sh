#!/usr/bin/env bash
# Makes the virtual environment that the lock describes and prints its path. It imports the packages of this tree in
# place. `venv.sh path` only prints where it would be.
set -euo pipefail
# shellcheck source=tools/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
umask 022

# The distribution's python3, not one found on PATH: another may lie in a home directory that the rootless user cannot read.
python=/usr/bin/python3
lock=$tree/requirements/dev.txt

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11"

# The path of the tree is part of the key, because the environment points at it; so is the interpreter's version.
key=$({ cat -- "$lock" "$tree/tools/venv.sh"; printf '%s\n' "$tree"; "$python" --version; } | sha256sum | cut -c1-16)
venv=$BUILDSVC_TOOLS/venv/$key

# Without the lock first: the rootless user may read the cache of root, not write it.
if [[ ${1:-} == path || -e $venv/complete && $(readlink -- "$BUILDSVC_TOOLS/venv/current") == "$key" ]]; then
  printf '%s\n' "$venv"
  exit
fi
mkdir -p "$BUILDSVC_TOOLS/venv"
exec 9>"$BUILDSVC_TOOLS/venv/.lock"
flock 9
if [[ ! -e $venv/complete ]]; then
  say "installing the locked Python packages into $venv (about a minute, the first time)"
  "$python" -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --no-deps --require-hashes --disable-pip-version-check --requirement "$lock" >&2
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # A path file instead of an editable install: that one writes metadata into the tree.
  printf '%s\n' "$tree" >"$site/buildsvc-tree.pth"
  for package in buildsvc sidecar; do
    cat >"$venv/bin/$package" <<PY
#!$venv/bin/python
import sys

from $package.__main__ import main

sys.exit(main())
PY
    chmod 0755 "$venv/bin/$package"
  done
  touch "$venv/complete"
fi
point_at "$BUILDSVC_TOOLS/venv/current" "$key"
printf '%s\n' "$venv"
