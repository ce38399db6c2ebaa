# Where tools, the venv and images are cached. Sourced by the scripts beside it and by the Makefile's recipes.
# shellcheck shell=bash
#
# Everything lives outside the source tree, so that the tree can be read-only and a clean checkout finds a warm cache.
# Root's home is closed to other users, and the rootless user must read the cache: as root it is below /var/cache.

# The root of this source tree.
tree=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

if [[ -z ${BUILDSVC_TOOLS:-} ]]; then
  if [[ $(id -u) -eq 0 ]]; then
    BUILDSVC_TOOLS=/var/cache/buildsvc/tools
  else
    BUILDSVC_TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/buildsvc/tools
  fi
fi
export BUILDSVC_TOOLS

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# made_for_tree SCRIPT: the directory that tools/SCRIPT makes for this tree; it must have been made.
made_for_tree() {
  local dir
  dir=$("$tree/tools/$1" path)
  [[ -d $dir ]] || die "$dir is missing; run make setup"
  printf '%s\n' "$dir"
}

# content_key FILE…: 16 hex digits that change when a file's content does. Order matters, names do not.
content_key() { cat -- "$@" | sha256sum | cut -c1-16; }

# with_lock NAME CMD…: runs CMD while no other process holds the lock NAME of this cache.
with_lock() {
  local name=$1
  shift
  mkdir -p "$BUILDSVC_TOOLS/locks"
  flock "$BUILDSVC_TOOLS/locks/$name" "$@"
}

# point_at LINK DIR: makes LINK a symlink to DIR in one step, so that a reader never finds it missing.
point_at() {
  ln -sfn -- "$2" "$1.new.$$"
  mv -T -- "$1.new.$$" "$1"
}

# built_once LINK KEY TIME [path]: prints the directory KEY beside LINK, and makes LINK point at it. Where there is none, the
# caller's function build makes it, in the directory that it is given; TIME is what that takes. `path`: prints it, built or not.
# KEY names what it is made of: nothing is built twice, and an old checkout still finds its own versions.
built_once() {
  local link=$1 key=$2 directory=${1%/*}
  # Without the lock first: the rootless user may read the cache of root, not write it.
  if [[ ${4:-} != path && ! (-d $directory/$key && $(readlink -- "$link") == "$key") ]]; then
    mkdir -p "$directory"
    exec 9>"$directory/.lock-${link##*/}"
    flock 9
    if [[ ! -d $directory/$key ]]; then
      say "with an empty cache this takes about $3 on two cores"
      # Not local: the trap has to know it.
      part=$(mktemp -d "$directory/.part.XXXXXX")
      trap 'rm -rf -- "$part"' EXIT
      build "$part"
      chmod 0755 "$part"
      mv -T -- "$part" "$directory/$key"
    fi
    point_at "$link" "$key"
  fi
  printf '%s\n' "$directory/$key"
}

# as_root CMD…: runs CMD as root, through sudo where that is needed.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  elif type -P sudo >/dev/null; then
    sudo -- "$@"
  else
    say "needs root for: $*"
    return 1
  fi
}
