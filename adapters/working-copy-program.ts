// Owns the program that puts a clean tree of a repository into a folder of its host: one POSIX shell text, sent along.
// Each repository has one mirror a host, also those of submodules; a tree has no link into it. Called by working-copies.ts.

/**
 * `sh -c TEXT slipway MIRRORS REPO URL REF SUBMODULES LFS DAYS KIB` (flags 1 or 0; mirrors that nobody used for DAYS go, and
 * the oldest above KIB). Prints the commit. It ends with everything it started when its standard input does.
 */
export const WORKING_COPY_PROGRAM = String.raw`
mirrors=$1 repo=$2 url=$3 ref=$4 submodules=$5 lfs=$6 days=$7 kib=$8
export GIT_ALLOW_PROTOCOL=http:https:ssh:git:file GIT_TERMINAL_PROMPT=0 GIT_LFS_SKIP_SMUDGE=1
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
command -v git >/dev/null || { echo "git is not installed on this host" >&2; exit 1; }
exec 3<&0 </dev/null
{ cat >/dev/null; kill -s TERM 0; } <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-

lock() {
  if command -v flock >/dev/null; then
    exec 9>"$1.lock" && flock 9
  else
    until mkdir "$1.held" 2>/dev/null; do
      owner=$(cat "$1.held/pid" 2>/dev/null)
      [ -z "$owner" ] || kill -s 0 "$owner" 2>/dev/null || rm -rf "$1.held"
      sleep 1
    done
    echo $$ >"$1.held/pid"
  fi
}
unlock() { exec 9>&-; rm -rf "$1.held"; }

# URL -> the folder of its mirror
mirror_of() { echo "$mirrors/$(printf %s "$1" | git hash-object --stdin)"; }

in_mirror() { mirror=$1; shift; git --git-dir="$mirror" -c gc.auto=0 -c maintenance.auto=false "$@"; }

is_there() { in_mirror "$1" cat-file -e "$2^{commit}" 2>/dev/null; }

# MIRROR URL REF -> prints the commit; fetches what is not there
resolve() {
  [ -e "$1/config" ] || { rm -rf "$1" && git init -q --bare "$1"; } || return 1
  case $3 in
  *[!0-9a-f]*) ;;
  ????????????????????????????????????????*) if is_there "$1" "$3"; then in_mirror "$1" rev-parse "$3^{commit}"; return; fi ;;
  esac
  in_mirror "$1" fetch -q --no-tags --prune "$2" '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*' >&2 || return 1
  for name in "refs/heads/$3" "refs/tags/$3"; do
    if is_there "$1" "$name"; then in_mirror "$1" rev-parse "$name^{commit}"; return; fi
  done
  case $3 in *[!0-9a-f]*) ;; ???????*) if is_there "$1" "$3"; then in_mirror "$1" rev-parse "$3^{commit}"; return; fi ;; esac
  in_mirror "$1" fetch -q --no-tags "$2" "+$3:refs/slipway/$$" >&2 || return 1
  in_mirror "$1" rev-parse "refs/slipway/$$^{commit}" && in_mirror "$1" update-ref -d "refs/slipway/$$"
}

# FOLDER URL REF -> a tree with the commit checked out
tree_once() {
  from=$(mirror_of "$2")
  commit=$(resolve "$from" "$2" "$3") || return 1
  rm -rf "$1"/* "$1"/.[!.]* "$1"/..?*
  git init -q "$1" && cp -R "$from/objects/." "$1/.git/objects/" || return 1
  [ ! -e "$from/shallow" ] || cp "$from/shallow" "$1/.git/shallow"
  in_mirror "$from" for-each-ref --format='update refs/remotes/origin/%(refname:lstrip=2) %(objectname)' refs/heads | git -C "$1" update-ref --stdin &&
    in_mirror "$from" for-each-ref --format='update %(refname) %(objectname)' refs/tags | git -C "$1" update-ref --stdin &&
    git -C "$1" remote add origin "$2" &&
    git -C "$1" -c advice.detachedHead=false checkout -q --force --detach "$commit" >&2 || return 1
}

# the same; a mirror that is broken is made anew
tree() {
  lock "$(mirror_of "$2")"
  broken=
  if ! tree_once "$@"; then
    if in_mirror "$(mirror_of "$2")" fsck --no-dangling >/dev/null 2>&1; then broken=no
    else rm -rf "$(mirror_of "$2")"; tree_once "$@" || broken=still
    fi
  fi
  touch "$(mirror_of "$2")" 2>/dev/null
  unlock "$(mirror_of "$2")"
  [ -z "$broken" ]
}

with_submodules() {
  [ -e "$1/.gitmodules" ] || return 0
  git -C "$1" submodule -q init >&2 || return 1
  git -C "$1" config -f .gitmodules --name-only --get-regexp '^submodule\..*\.path$' | while IFS= read -r key; do
    path=$(git -C "$1" config -f .gitmodules "$key")
    module=$(expr "$key" : 'submodule\.\(.*\)\.path')
    from=$(git -C "$1" config "submodule.$module.url") || continue
    case $from in
    http://* | https://* | ssh://* | git://* | *@*:*) ;;
    *) case $url in file://*) ;; *) echo "submodule $path is at $from, which is of this host" >&2; exit 1 ;; esac ;;
    esac
    pinned=$(git -C "$1" rev-parse "HEAD:$path") || exit 1
    mkdir -p "$1/$path" && tree "$1/$path" "$from" "$pinned" </dev/null && with_submodules "$1/$path" </dev/null || { echo "submodule $path cannot be had from $from" >&2; exit 1; }
    mkdir -p "$1/.git/modules" && git -C "$1" submodule -q absorbgitdirs -- "$path" >&2 || exit 1
  done
}

with_lfs() {
  git -C "$1" grep -q 'filter=lfs' -- ':(glob)**/.gitattributes' .gitattributes 2>/dev/null || return 0
  command -v git-lfs >/dev/null || { echo "files kept by git-lfs are left as pointers: it is not installed on this host" >&2; return 0; }
  store=$(mirror_of "$url")/lfs
  git -C "$1" lfs install --local --skip-smudge >/dev/null && git -C "$1" config lfs.storage "$store" &&
    git -C "$1" lfs pull >&2 && git -C "$1" config --unset lfs.storage
}

evict() {
  for used in $(ls -1t "$mirrors" 2>/dev/null); do
    [ -d "$mirrors/$used" ] || continue
    old=$(find "$mirrors/$used" -prune -mtime +"$days")
    kib=$((kib - $(du -sk "$mirrors/$used" 2>/dev/null | cut -f1)))
    if [ -n "$old" ] || [ "$kib" -lt 0 ]; then
      [ "$mirrors/$used" = "$(mirror_of "$url")" ] || (lock "$mirrors/$used"; rm -rf "$mirrors/$used"; unlock "$mirrors/$used")
    fi
  done
}

mkdir -p "$mirrors" "$repo" && tree "$repo" "$url" "$ref" &&
  { [ "$submodules" = 0 ] || with_submodules "$repo"; } &&
  { [ "$lfs" = 0 ] || with_lfs "$repo"; } &&
  git -C "$repo" rev-parse HEAD &&
  chmod -R a+rwX "$repo"
code=$?
evict >/dev/null 2>&1
kill $watcher 2>/dev/null
exit $code
`;
