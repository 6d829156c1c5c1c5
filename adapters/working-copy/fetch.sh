# sh -c TEXT slipway VERB MIRROR SOURCE REF PIN
# The step of a checkout that talks to the server. It writes the mirror alone, and reads the settings of the worker's user,
# which hold its credentials. VERB:
#   fetch  gets REF and prints its commit; 3: the server has no such thing, and nothing is wrong with the mirror
#   lfs    gets the files of git-lfs that commit REF has
#   ask    tells whether the server answers
#   moved  prints the URL that the server sends whoever asks on to; nothing: to none
# PIN is HOST:PORT:ADDRESS,…: what the name was found to stand for when it was checked; empty: nothing.
verb=$1 mirror=$2 source=$3 ref=$4 pin=$5

# It follows nobody to another URL, which checkout.sh has to permit first.
git_here() {
  git -c gc.auto=0 -c maintenance.auto=false -c core.hooksPath=/dev/null -c core.fsmonitor=false \
    -c http.followRedirects=false ${pin:+-c "http.curloptResolve=$pin"} "$@"
}
in_mirror() { git_here --git-dir="$mirror" "$@"; }
take() { in_mirror fetch -q --no-tags --no-recurse-submodules "$@" >&2; }
commit_of() { in_mirror rev-parse -q --verify "$1^{commit}" 2>/dev/null; }
is_hex() { case $1 in *[!0-9a-f]*) return 1 ;; esac; [ ${#1} -ge 7 ]; }
# A full id is an id, also where a branch has its name.
is_id() { is_hex "$1" && { [ ${#1} = 40 ] || [ ${#1} = 64 ]; }; }

take_one() {
  take -- "$source" "+$1:refs/slipway/one" && commit_of refs/slipway/one || exit 3
  in_mirror update-ref -d refs/slipway/one
}

case $verb in
ask)
  git_here ls-remote -- "$source" HEAD >/dev/null 2>&1
  exit
  ;;
moved)
  GIT_TRACE_CURL=1 GIT_TRACE_CURL_NO_DATA=1 git_here ls-remote -- "$source" HEAD 2>&1 >/dev/null |
    sed -n 's/.*<= Recv header: [Ll]ocation: *//p' | tail -n 1 | tr -d '\r' | sed -n 's,/info/refs?service=git-upload-pack$,,p'
  exit
  ;;
lfs)
  # git-lfs takes settings of a repository from its HEAD: so there is none. It keeps files in the folder lfs of the mirror.
  in_mirror symbolic-ref HEAD refs/slipway/none || exit 1
  in_mirror -c remote.origin.url="$source" lfs fetch origin "$ref" >&2
  exit
  ;;
esac
if [ ! -e "$mirror/config" ]; then
  rm -rf "$mirror"/* "$mirror"/.[!.]*
  git_here init -q --bare --template= "$mirror" || exit 1
fi
is_id "$ref" && commit_of "$ref" && exit
take --prune -- "$source" '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*' || exit 1
if is_id "$ref"; then
  commit_of "$ref" || take_one "$ref"
else
  commit_of "refs/heads/$ref" || commit_of "refs/tags/$ref" || { is_hex "$ref" && commit_of "$ref"; } || take_one "$ref"
fi
