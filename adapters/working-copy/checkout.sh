# sh -c TEXT slipway FETCH TREE MIRRORS REPO URL REF SUBMODULES LFS DAYS KIB ALLOWED
# Puts a clean tree of a repository into REPO, and prints its commit. It decides where may be taken from and where may be
# written to, and keeps one mirror of each repository, submodules included. What reads what a stranger wrote are the texts
# FETCH (fetch.sh) and TREE (tree.sh), run in a box of bubblewrap where the host has one; what they print is not trusted.
# SUBMODULES, LFS: 0 or 1. Mirrors that nobody used for DAYS go, and the oldest above KIB. ALLOWED: a folder or an address a
# line. It ends with all that it started when its standard input does. A form feed on standard error: it tries once more.
fetch_step=$1 tree_step=$2
shift 2
mirrors=$1 repo=$2 url=$3 ref=$4 submodules=$5 lfs=$6 days=$7 kib=$8 allowed=$9
export LC_ALL=C GIT_ALLOW_PROTOCOL=http:https:ssh:git:file GIT_TERMINAL_PROMPT=0
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_COMMON_DIR
unset GIT_NAMESPACE GIT_SHALLOW_FILE GIT_GRAFT_FILE GIT_REPLACE_REF_BASE GIT_TEMPLATE_DIR CDPATH
refuse() { printf '%s\n' "$*" >&2; return 1; }
command -v git >/dev/null || { refuse 'git is not installed on this host'; exit 1; }
exec 3<&0 </dev/null
{ cat >/dev/null; kill -s TERM 0; } <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-

canonical() { (cd "$1" 2>/dev/null && pwd -P); }
mkdir -p "$mirrors" "$repo" || exit 1
mirrors=$(canonical "$mirrors") && runs=$(canonical "$mirrors/..") && repo=$(canonical "$repo") && cd / || exit 1

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
# The same for one that nobody uses now: its fetch may take as long as a stranger's server likes.
lock_idle() {
  if command -v flock >/dev/null; then
    exec 9>"$1.lock"
    flock -n 9 || { exec 9>&-; return 1; }
  else
    mkdir "$1.held" 2>/dev/null && echo $$ >"$1.held/pid"
  fi
}
# A process that git left behind, of SSH for one, may have the file open still.
unlock() {
  ! command -v flock >/dev/null || flock -u 9
  exec 9>&-
  rm -rf "$1.held"
}

# --- the box ---

# OPTIONS -- COMMAND: with no rights, and nothing of the host but its programs
in_box() {
  if [ -z "$is_boxed" ]; then
    until [ "$1" = -- ]; do shift; done
    shift
    "$@"
    return
  fi
  for part in usr bin sbin lib lib32 lib64 libx32 opt nix gnu snap run/current-system etc/alternatives etc/ld.so.cache; do
    [ ! -e "/$part" ] || set -- --ro-bind "/$part" "/$part" "$@"
  done
  bwrap --unshare-user --unshare-pid --unshare-ipc --cap-drop ALL --die-with-parent --new-session \
    --tmpfs /tmp --dev /dev --chdir / "$@"
}
is_boxed=yes
command -v bwrap >/dev/null && in_box --unshare-net -- git --version >/dev/null 2>&1 || is_boxed=

# How the network is reached, and where the credentials of the worker's user are, as the settings of git and SSH say.
needed_to_fetch() {
  for part in ca-certificates crypto-policies gai.conf gitconfig group host.conf hosts krb5.conf krb5.conf.d nsswitch.conf passwd \
    pki/ca-trust pki/tls/certs pki/tls/cert.pem protocols resolv.conf services ssh/ssh_config ssh/ssh_config.d ssh/ssh_known_hosts \
    ssl/cert.pem ssl/certs ssl/openssl.cnf; do
    echo "/etc/$part"
  done
  for part in .ssh .gitconfig .config/git .git-credentials .netrc .config/gh; do printf '%s\n' "$HOME/$part"; done
  printf '%s\n' /run/nscd /run/systemd/userdb /var/lib/sss
  {
    git config --list
    [ ! -r "$HOME/.ssh/config" ] || cat "$HOME/.ssh/config"
    printf '%s\n' "$SSH_AUTH_SOCK" "$SSH_ASKPASS" "$SSL_CERT_FILE" "$CURL_CA_BUNDLE" "$KRB5CCNAME" "$KRB5_CONFIG" \
      "$GIT_SSH" "$GIT_SSH_COMMAND" "$GIT_ASKPASS" "$GIT_SSL_CAINFO" "$GIT_SSL_CERT" "$GIT_SSL_KEY" "$GIT_CONFIG_GLOBAL"
  } 2>/dev/null | tr " \t=:,!\"'" '\n' | grep '^[~/]' | while IFS= read -r file; do
    case $file in '~/'*) file=$HOME/${file#'~/'} ;; esac
    [ ! -f "$file" ] && [ ! -S "$file" ] || printf '%s\n' "$file"
  done
}

# The arguments of fetch.sh
in_fetch_box() {
  set -- --tmpfs "$runs" --bind "$mirror" "$mirror" -- sh -c "$fetch_step" slipway "$@"
  if [ -n "$is_boxed" ]; then
    [ -z "$folder" ] || set -- --ro-bind "$folder" "$folder" "$@"
    while IFS= read -r file; do [ ! -e "$file" ] || set -- --ro-bind "$file" "$file" "$@"; done <<FILES
$(needed_to_fetch)
FILES
  fi
  in_box "$@"
}

# The arguments of tree.sh
in_tree_box() {
  in_box --unshare-net --tmpfs "$runs" --ro-bind "$mirror" "$mirror" --bind "$1" "$1" -- sh -c "$tree_step" slipway "$@"
}

# --- where may be taken from ---

# PATH -> the folder named by the operator that it lies in; those of mirrors and runs lie in none
folder_of() {
  place=$(canonical "$1") || return 1
  case $place/ in "$runs"/*) return 1 ;; esac
  printf '%s\n' "$allowed" | while IFS= read -r entry; do
    case $entry in /*) entry=$(canonical "$entry") || continue ;; *) continue ;; esac
    case $place/ in "${entry%/}"/*) printf '%s\n' "$entry" && break ;; esac
  done | grep .
}

# HOST PORT
is_named() { printf '%s\n' "$allowed" | grep -qixF -e "$1" -e "$1:$2"; }

# ADDRESS: of this host itself, of its own link, of a cloud's metadata, or none at all
is_own() {
  case $1 in
  0* | *.0[0-9]* | 127.* | 169.254.* | 100.100.100.200 | ::* | fd00:ec2::254 | [fF][eE][89abAB]?:*) return 0 ;;
  *:* | *[!0-9.]* | *.*.*.*) return 1 ;;
  esac
}

# HOST -> the addresses that it stands for, as far as can be known here
addresses_of() {
  ! command -v getent >/dev/null || getent ahosts "$1" | awk '!seen[$1]++ { print $1 }' | grep . && return
  case $(printf %s "$1" | tr A-Z a-z) in
  localhost | *.localhost) echo 127.0.0.1 ;;
  *:* | 0[xX]* | *.0[xX]*) echo "$1" ;;
  *[!0-9.]*) ;;
  *) echo "$1" ;;
  esac
}

has_proxy() { [ -n "$http_proxy$https_proxy$HTTPS_PROXY$all_proxy$ALL_PROXY" ] || git config --get-regexp '^http\..*proxy$' >/dev/null; }

# URL AUTHORITY SCHEME; what the name was found to stand for is kept, so that git finds the same
permit_host() {
  host=${2##*@} port=
  case ${2%"$host"} in *@*@*) refuse "the host of $1 cannot be told"; return ;; esac
  case $host in
  \[*\] | \[*\]:*) port=${host##*\]} port=${port#:} host=${host%%\]*} host=${host#\[} ;;
  *:*) port=${host##*:} host=${host%:*} ;;
  esac
  host=${host%.}
  case $host in
  '' | -* | *[!A-Za-z0-9._:-]*) refuse "the host of $1 cannot be told"; return ;;
  *:*) case $host in *[!0-9a-fA-F:.]*) refuse "the host of $1 cannot be told"; return ;; esac ;;
  esac
  case $port in *[!0-9]*) refuse "the port of $1 cannot be told"; return ;; esac
  found=$(addresses_of "$host")
  # A name that is nothing now may be this host a moment later. Where there is a proxy it is the proxy that looks it up.
  case $3 in ssh) ;; *) [ -n "$found" ] || ! command -v getent >/dev/null || has_proxy || { refuse "could not resolve host $host"; return; } ;; esac
  for address in $found; do
    ! is_own "$address" || is_named "$host" "$port" || {
      refuse "$1 leads to $address, which is of this host or its own link; to allow it, name $host in SLIPWAY_LOCAL_REPOSITORIES of the worker"
      return
    }
  done
  case $3 in https) port=${port:-443} ;; http) port=${port:-80} ;; *) return 0 ;; esac
  case $host in
  *:*) ;;
  *[a-zA-Z]*) [ -z "$found" ] || pin=$host:$port:$(printf '%s\n' "$found" | sed 's/.*:.*/[&]/' | tr '\n' ,) pin=${pin%,} ;;
  esac
}

# URL -> source, folder and pin; fails where nobody may take a repository from
permit() {
  source=$1 folder= pin=
  case $1 in
  *[[:cntrl:]\ \\]*) refuse "$1 has characters that no URL has" ;;
  file:///*)
    source=$(canonical "${1#file://}") && folder=$(folder_of "$source") ||
      refuse "$1 is in no folder of this host that repositories may come from; to allow it, name the folder in SLIPWAY_LOCAL_REPOSITORIES of the worker"
    ;;
  http://* | https://* | ssh://* | git://*)
    authority=${1#*://}
    permit_host "$1" "${authority%%[/?#]*}" "${1%%:*}"
    ;;
  *)
    authority=${1%%:*}
    case $authority in
    -* | */* | *[!A-Za-z0-9._@-]* | "$1") refuse "$1 is no URL of a repository" ;;
    *@*) permit_host "$1" "$authority" ssh ;;
    *) refuse "$1 is no URL of a repository" ;;
    esac
    ;;
  esac
}

# --- mirrors and trees ---

# URL -> the folder of its mirror
mirror_of() { echo "$mirrors/$(printf %s "$1" | git hash-object --stdin)"; }

# Who has the lock of a mirror is alone with it: other locks in it were left by a git that was killed.
clear_mirror() {
  find "$mirror" \( -path "$mirror/objects/??" -o -path "$mirror/lfs" \) -prune -o -name '*.lock' -exec rm -f {} +
  rm -f "$mirror"/objects/pack/tmp_* "$mirror"/objects/??/tmp_*
}

# TREE URL REF -> what tree.sh says; 1: no fetch, 3: nothing to fetch, 4: no files of git-lfs, 5: no tree
try_once() {
  commit=$(in_fetch_box fetch "$mirror" "$source" "$3" "$pin") || { [ $? = 3 ] && return 3; return 1; }
  said=$(in_tree_box "$1" "$mirror" "$commit" "$2" "$submodules" '') || return 5
  if [ "$lfs" = 1 ] && printf '%s\n' "$said" | grep -qx lfs; then
    said=$(with_lfs "$@") || return 4
  fi
  printf '%s\n' "$said"
}

with_lfs() {
  if ! command -v git-lfs >/dev/null; then
    echo 'files kept by git-lfs are left as pointers: it is not installed on this host' >&2
    printf '%s\n' "$said"
    return
  fi
  from=$source
  [ -z "$folder" ] || from=file://$source
  in_fetch_box lfs "$mirror" "$from" "$commit" "$pin" && in_tree_box "$1" "$mirror" "$commit" "$2" "$submodules" "$mirror/lfs"
}

# -> where the server of the source says that it is now; fails when it says nothing
moved_to() {
  case $source in http://* | https://*) ;; *) return 1 ;; esac
  moved=$(in_fetch_box moved "$mirror" "$source" '' "$pin") || return 1
  case $moved in
  http://* | https://*) ;;
  /*)
    authority=${source#*://}
    moved=${source%%://*}://${authority%%/*}$moved
    ;;
  *) return 1 ;;
  esac
}

# TREE URL REF -> found, code; from wherever the repository has moved to, as far as that is permitted
try_there() {
  found=$(try_once "$@")
  code=$?
  for hop in 1 2 3; do
    [ $code = 1 ] && moved_to || return
    printf '\f\n' >&2
    permit "$moved" || { code=refused; return; }
    found=$(try_once "$@")
    code=$?
  done
}

# TREE URL REF -> found, which is what tree.sh says. A mirror that fails though the far side answers is thrown away.
obtain() {
  permit "$2" || return 1
  mirror=$(mirror_of "$2")
  lock "$mirror"
  is_new=
  [ -e "$mirror/config" ] || is_new=yes
  mkdir -p "$mirror" && clear_mirror
  try_there "$@"
  case $is_new$code in
  1) ! in_fetch_box ask "$mirror" "$source" '' "$pin" || code=again ;;
  5) git --git-dir="$mirror" fsck --no-dangling >/dev/null 2>&1 || code=again ;;
  esac
  if [ $code = again ]; then
    printf '\f\n' >&2
    rm -rf "$mirror"
    mkdir -p "$mirror"
    found=$(try_once "$@")
    code=$?
  fi
  touch "$mirror" 2>/dev/null
  unlock "$mirror"
  [ "$code" = 0 ]
}

# TREE PATH: each part of it is a folder, and none is a link or git's own
is_plain() {
  case /$2/ in */../* | */./* | *//* | */.[gG][iI][tT]/*) return 1 ;; esac
  reached=$1 rest=$2/
  while [ -n "$rest" ]; do
    reached=$reached/${rest%%/*} rest=${rest#*/}
    [ ! -h "$reached" ] && [ -d "$reached" ] || return 1
  done
}

# TREE, and what tree.sh says of it
with_submodules() {
  printf '%s\n' "$2" | while IFS= read -r line; do
    case $line in
    'link '*) id=${line#link } ;;
    'path '*) path=${line#path } ;;
    'from '*) submodule "$1" "$path" "$id" "${line#from }" </dev/null || exit 1 ;;
    esac
  done
}

# TREE PATH ID URL
submodule() {
  case $4 in /*) set -- "$1" "$2" "$3" "file://$4" ;; esac
  case $4 in file:*) case $url in file:*) ;; *) refuse "submodule $2 is at $4, which is of this host"; return ;; esac ;; esac
  is_plain "$1" "$2" || { refuse "submodule $2 is not at a plain folder of the tree"; return; }
  obtain "$1/$2" "$4" "$3" && with_submodules "$1/$2" "$found" || refuse "submodule $2 cannot be had from $4"
}

# The names of mirrors are digits and letters.
evict() {
  cd "$mirrors" && mirrors_by_use=$(ls -1t | grep -x '[0-9a-f]*') || return
  {
    find $mirrors_by_use -prune -mtime +"$days"
    du -sk $mirrors_by_use | awk -v kib="$kib" '{ kib -= $1; if (kib < 0) print $2 }'
  } | sort -u | while IFS= read -r used; do
    mirror=$mirrors/$used
    [ "$mirror" = "$(mirror_of "$url")" ] || ! lock_idle "$mirror" || { rm -rf "$mirror"; unlock "$mirror"; }
  done
}

obtain "$repo" "$url" "$ref" && commit=$(printf '%s\n' "$found" | sed -n 's/^commit //p') &&
  with_submodules "$repo" "$found" && printf '%s\n' "$commit"
code=$?
evict >/dev/null 2>&1
kill $watcher 2>/dev/null
exit $code
