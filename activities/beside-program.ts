// Owns the two programs of a run that has several hosts: `slipway`, by which its script uses the others, and the one that
// serves them there. Both talk through their spools alone, so neither notices when a worker dies. Sent by hosts-beside.ts.
//
//   out/ID.HOST.ask       what is to be done there, a shell text; before it comes ID.tar, for a copy to the host
//   out/ID.HOST.release   the host is not needed any more
//   in/ID.o.N, ID.e.N     what it wrote on its outputs, from byte N; ID.p.N: of the ID.tar that it made, for a copy from there
//   out/ID.stop, in/…     who waits for it was told to end, so it is to end as well: TERM, and KILL after 10 s
//   out/ran/ID            on the host: it was started, and is not again, whoever asks; out/ID.pid, ID.told: as what, and when it was told
//   in/ID.exit            how it ended                                  out/ID.done   all that has been taken
//
// POSIX shell throughout, without the braces of parameters: those would be filled in here.

/** Unpacks ID.p.N as `cp -R` would: into a folder that is there, else under the new name. No single quotes in it. */
const UNPACK = String.raw`
[ -n "$dst" ] || dst=.
tmp=$SLIPWAY_SPOOL/out/$id.tmp
mkdir -p "$tmp" && cat "$SLIPWAY_SPOOL/in/$id.p."* | tar -C "$tmp" -xf - || exit 1
case $dst in */) mkdir -p "$dst" || exit 1 ;; *) mkdir -p "$(dirname -- "$dst")" || exit 1 ;; esac
if [ "$base" = . ]; then mkdir -p "$dst" && cp -RPp "$tmp/." "$dst"; else cp -RPp "$tmp/$base" "$dst"; fi
code=$?
rm -rf "$tmp"
exit $code
`;

/** Packs what is called `base` in the folder `dir`. No single quotes in it. */
const PACK = String.raw`
[ -e "$dir/$base" ] || [ -h "$dir/$base" ] || { echo "slipway: no file or folder $dir/$base on $H_HOST" >&2; exit 1; }
tar -C "$dir" -cf "$SLIPWAY_SPOOL/out/$id.tar" "./$base"
`;

/** What a script finds as `slipway`. */
export const SLIPWAY_PROGRAM = String.raw`#!/bin/sh
die() { code=$1; shift; printf 'slipway: %s\n' "$*" >&2; exit "$code"; }
usage() { die 2 'use: slipway on HOST -- COMMAND ..., slipway copy [HOST:]PATH [HOST:]PATH, slipway release HOST ...'; }

[ -n "$SLIPWAY_SPOOL" ] && [ -n "$H_HOSTS" ] || die 2 'there are no other hosts here; they are for the script of a run with hosts:'
in=$SLIPWAY_SPOOL/in out=$SLIPWAY_SPOOL/out
first=$(date +%s)$$ id=$first

is_host() { case " $H_HOSTS " in *" $1 "*) ;; *) return 1 ;; esac; }
known() { is_host "$1" || die 2 "this run has no host $1; it has: $H_HOSTS"; }
quote() { printf '%s\n' "$1" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/"; }
send() { cat >"$out/$1.new" && mv "$out/$1.new" "$out/$1" || die 1 "cannot write to $out"; }

# A signal that all of us get is for the one who waits.
calm() { (trap '' HUP INT TERM; exec "$@"); }

pass_on() {
  while part=$in/$id.$1.$(printf %015d "$2"); [ -e "$part" ]; do
    calm cat "$part"
    set -- "$1" $(($2 + $(wc -c <"$part")))
  done
  at=$2
}

await() {
  at_o=0 at_e=0 over=
  while [ -z "$over" ]; do
    [ -d "$in" ] || die 1 'this run is over'
    [ ! -e "$in/$id.exit" ] || over=1
    pass_on o $at_o; at_o=$at
    pass_on e $at_e >&2; at_e=$at
    [ -n "$over" ] || calm sleep 0.1
  done
  read -r code <"$in/$id.exit"
}

parts_of() {
  case $1 in
  / | . | .. | */. | */..) dir=$1 base=. ;;
  *) dir=$(dirname -- "$1") base=$(basename -- "$1") ;;
  esac
}

host_of() { name=$(expr "x$1" : 'x\([a-z][a-z0-9-]*\):') && is_host "$name"; }
path_of() { expr "x$1" : 'x[a-z0-9-]*:\(.*\)'; }

unpack='${UNPACK}'
pack='${PACK}'

verb=$1
[ $# -ge 2 ] || usage
shift
case $verb in
on)
  known "$1"
  host=$1
  shift
  [ "$1" != -- ] || shift
  [ $# -ge 1 ] || usage
  command=
  for word; do command="$command $(quote "$word")"; done
  trap ': >"$out/$id.stop"' HUP INT TERM
  printf '%s\n' "$command" | send "$id.$host.ask"
  await
  ;;
copy)
  [ $# -eq 2 ] || usage
  if host_of "$1"; then
    host=$name
    ! host_of "$2" || die 2 'copy from one host to another by way of this one'
    parts_of "$(path_of "$1")"
    printf 'id=%s dir=%s base=%s%s' "$id" "$(quote "$dir")" "$(quote "$base")" "$pack" | send "$id.$host.ask"
    await
    dst=$2
    [ "$code" -ne 0 ] || (eval "$unpack") || code=$?
  elif host_of "$2"; then
    parts_of "$1"
    (H_HOST='this host'; eval "$pack") || exit 1
    dst=$(path_of "$2")
    printf 'id=%s dst=%s base=%s%s' "$id" "$(quote "$dst")" "$(quote "$base")" "$unpack" | send "$id.$name.ask"
    await
  else
    die 2 "neither $1 nor $2 begins with a host of this run; it has: $H_HOSTS"
  fi
  ;;
release)
  for host; do known "$host"; done
  number=0 code=0
  for host; do
    [ "$code" -eq 0 ] || break
    number=$((number + 1))
    id=$first-$number
    echo | send "$id.$host.release"
    await
    : >"$out/$id.done"
  done
  ;;
*) usage ;;
esac
: >"$out/$id.done"
exit "$code"
`;

/** What serves a host beside that of a run: it starts each ask once, whoever supervises it meanwhile. */
export const HOLDER_PROGRAM = String.raw`#!/bin/sh
in=$SLIPWAY_SPOOL/in out=$SLIPWAY_SPOOL/out
session=
! command -v setsid >/dev/null || session=setsid

run() {
  id=$(basename "$1" .ask)
  # Not what is being discarded, nor what comes again from a supervisor that was believed dead.
  [ ! -e "$out/ran/$id" ] || return
  : >"$out/ran/$id"
  : >"$out/$id.e"
  : >"$out/$id.o"
  {
    code=143
    if [ ! -e "$in/$id.stop" ]; then
      # Its shell hears the signal as well, and waits for what it runs.
      $session /bin/sh -c 'trap : HUP INT TERM; . "$0"' "$1" >"$out/$id.o" 2>"$out/$id.e" </dev/null &
      echo $! >"$out/$id.pid"
      wait $!
      code=$?
    fi
    echo $code >"$out/$id.exit.new"
    mv "$out/$id.exit.new" "$out/$id.exit"
  } &
}

tree() {
  echo "$1"
  for child in $(ps -A -o pid= -o ppid= | awk -v p="$1" '$2 == p { print $1 }'); do tree "$child"; done
}

end() {
  id=$(basename "$1" .stop)
  [ -s "$out/$id.pid" ] && [ ! -e "$out/$id.exit" ] || return
  now=$(date +%s) signal=TERM
  if [ -e "$out/$id.told" ]; then
    [ $((now - $(cat "$out/$id.told"))) -ge 10 ] || return
    signal=KILL
  fi
  echo "$now" >"$out/$id.told"
  read -r pid <"$out/$id.pid"
  if [ -n "$session" ]; then kill -s $signal -- "-$pid"; else kill -s $signal $(tree "$pid"); fi
}

mkdir -p "$out/ran"
while [ -d "$in" ]; do
  for ask in "$in"/*.ask; do [ ! -e "$ask" ] || run "$ask"; done
  for stop in "$in"/*.stop; do [ ! -e "$stop" ] || end "$stop"; done
  sleep 0.1
done
`;
