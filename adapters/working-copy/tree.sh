# sh -c TEXT slipway TREE MIRROR COMMIT URL SUBMODULES STORE
# The step of a checkout that writes the tree. It talks to nobody, and reads no settings but those that git makes itself:
# neither those of the worker's user nor any of the repository. With a STORE of git-lfs the tree is there already, and git
# writes its files once more, now with their contents. It prints
#   commit ID
#   lfs         files are kept by git-lfs, and no STORE was given
#   link ID, path PATH, from URL: three lines for each submodule
# Which submodules there are says the index alone. `.gitmodules` is asked for their URLs only, as the commit has it.
tree=$1 mirror=$2 commit=$3 url=$4 submodules=$5 store=$6
export HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1
export GIT_COMMITTER_NAME=slipway GIT_COMMITTER_EMAIL=slipway@localhost
unset GIT_CONFIG GIT_CONFIG_COUNT GIT_CONFIG_PARAMETERS GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_EXTERNAL_DIFF
unset GIT_SSH GIT_SSH_COMMAND GIT_ASKPASS SSH_ASKPASS GIT_PROXY_COMMAND GIT_LFS_SKIP_SMUDGE GIT_LITERAL_PATHSPECS

in_tree() { git -C "$tree" -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.auto=0 -c advice.detachedHead=false "$@"; }
from_mirror() { git --git-dir="$mirror" for-each-ref --format="$1" "$2" | in_tree update-ref --stdin; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

lay_out() {
  rm -rf "$tree"/* "$tree"/.[!.]* "$tree"/..?*
  git init -q "$tree" && cp -R "$mirror/objects/." "$tree/.git/objects/" || return 1
  rm -f "$tree/.git/objects/info/alternates"
  [ ! -e "$mirror/shallow" ] || cp "$mirror/shallow" "$tree/.git/shallow"
  from_mirror 'update refs/remotes/origin/%(refname:lstrip=2) %(objectname)' refs/heads &&
    from_mirror 'update %(refname) %(objectname)' refs/tags &&
    in_tree remote add origin "$url" &&
    in_tree checkout -q --force --detach "$commit" >&2
}

# git itself writes the files, so no link is followed; the address is there so that git-lfs knows no other.
fill_in() {
  rm -f "$tree/.git/index"
  in_tree -c lfs.storage="$store" -c lfs.url=file:///nonexistent -c lfs.fetchinclude= -c lfs.fetchexclude= \
    -c filter.lfs.required=true -c filter.lfs.clean='git-lfs clean -- %f' -c filter.lfs.smudge='git-lfs smudge -- %f' -c filter.lfs.process='git-lfs filter-process' \
    checkout -q --force --detach "$commit" >&2 &&
    git -C "$tree" lfs install --local --skip-smudge >/dev/null
}

# PATH SETTINGS -> the name of the one section that has this path; nothing unless it has one path and one URL
name_of() {
  printf '%s\n' "$2" | P=$1 awk -F '\001' '
    NF == 2 && $1 ~ /\.path$/ && ($2 "") == (ENVIRON["P"] "") { found++; name = substr($1, 11, length($1) - 15) }
    { times[$1]++ }
    END { if (found == 1 && times["submodule." name ".path"] == 1 && times["submodule." name ".url"] == 1) print name }'
}

list_submodules() {
  links=$(in_tree -c core.quotePath=false ls-files -s | grep '^160000 ') || return 0
  case $(in_tree ls-files -s -- .gitmodules) in '' | 100*) ;; *) fail '.gitmodules is no plain file' ;; esac
  in_tree submodule -q init >&2 || return 1
  settings=$(in_tree config --no-includes --blob HEAD:.gitmodules -z --get-regexp '^submodule\..*\.(path|url)$' | tr '\n\0' '\001\n')
  tab=$(printf '\t')
  printf '%s\n' "$links" | while IFS= read -r entry; do
    path=${entry#*"$tab"} id=${entry#160000 }
    name=$(name_of "$path" "$settings")
    [ -n "$name" ] || fail "submodule $path is not in exactly one section of .gitmodules, with one path and one url"
    from=$(in_tree config --get "submodule.$name.url") || fail "submodule $path has no url that git takes"
    case $from in *[[:cntrl:]]*) fail "the url of submodule $path has characters that no URL has" ;; esac
    printf 'link %s\npath %s\nfrom %s\n' "${id%% *}" "$path" "$from"
  done
}

if [ -n "$store" ]; then fill_in; else lay_out; fi || exit 1
printf 'commit '
in_tree rev-parse HEAD || exit 1
[ -n "$store" ] || ! in_tree grep --cached -q 'filter=lfs' -- ':(glob)**/.gitattributes' .gitattributes || echo lfs
[ "$submodules" = 0 ] || list_submodules || exit 1
chmod -R a+rwX "$tree"
