// Owns the program that keeps a run on a machine without containers: one POSIX shell text, sent along with each command.
// What it starts lives on its own; all that is known of it lies in the folder of the run, so any worker can go on with it.
// Called by bare-engine.ts.
//
//   <root>/<name>/ script, launch    what is run, and how          started/   made once, by whoever starts it
//                  repo, archive, …  its folders                   pid        runner and first process, with their births
//                  created           when                          log, exit  output, exit code and when
//                  stopping          told to end: grace in 0.1 s
//                  t.<token>         fencing tokens that were seen here
//                  in, out, bin      the spool of a run that has one, and its program

import { MOST_FOLDERS_DEEP } from './archive-files';
import { REMOVE_TREE } from './remove-tree';

/** Exit codes of the program that mean something. */
export const BARE_CODES = { gone: 3, fenced: 4, alive: 5 } as const;

/**
 * `sh -c TEXT slipway ROOT SHELL VERB NAME TOKEN …`; token 0: whoever calls was told that nobody holds the run.
 * A process belongs to a run when the mark is in its environment, or when it is of the session (without `setsid`: the
 * group) of the first one. Births keep the number of a process apart from a later one of the same number.
 */
export const BARE_PROGRAM = String.raw`${REMOVE_TREE}
root=$1 sh=$2 verb=$3 name=$4 token=$5
shift 5
run=$root/$name
die() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }

fence() {
  [ "$token" -gt 0 ] || return 0
  : >"$run/t.$token" || exit 1
  for seen in "$run"/t.*; do
    [ "$(expr "$seen" : '.*/t\.\([0-9]*\)$')" -le "$token" ] || die 4 "token $token is not the newest of $name"
  done
}

born() {
  if [ -r /proc/self/stat ]; then
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    set -- $(printf '%s' "$stat" | sed 's/.*) //')
    [ "$1" = Z ] || echo "$(shift 19; echo "$1")@$(cat /proc/sys/kernel/random/boot_id)"
  else
    ps -o lstart= -p "$1" 2>/dev/null | tr ' ' _
  fi
}

read_pid() { read -r runner runner_born first first_born <"$run/pid"; }

await_pid() {
  tries=0
  until [ -e "$run/pid" ] || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  [ -e "$run/pid" ] && read_pid
}

members() {
  now=$(born "$first")
  group=$first
  [ -z "$now" ] || [ "$now" = "$first_born" ] || group=none
  if [ -r /proc/self/stat ]; then
    [ "$(cat /proc/sys/kernel/random/boot_id)" = "$(expr "$runner_born" : '.*@\(.*\)')" ] || return 0
    {
      grep -zlF "SLIPWAY_RUN=/$name/" /proc/[0-9]*/environ 2>/dev/null | sed 's,/proc/,,; s,/environ,,'
      cat /proc/[0-9]*/stat 2>/dev/null | awk -v g="$group" '{ p = $1; sub(/^.*\) /, ""); if (($3 == g || $4 == g) && $1 != "Z") print p }'
    } | sort -u
  else
    ps -A -o pid= -o pgid= -o stat= | awk -v g="$group" '$2 == g && $3 !~ /^Z/ { print $1 }'
  fi
}

is_alive() {
  [ "$(born "$runner")" = "$runner_born" ] || [ -n "$(members)" ]
}

kill_members() {
  tries=0
  while left=$(members); [ -n "$left" ]; do
    [ $tries -lt 200 ] || return 1
    kill -s KILL $left 2>/dev/null
    sleep 0.05
    tries=$((tries + 1))
  done
}

end_run() {
  [ -d "$run/started" ] || return 0
  await_pid || return 0
  [ -e "$run/exit" ] && return 0
  echo $(($1 * 10)) >"$run/stopping.new" && mv "$run/stopping.new" "$run/stopping"
  left=$(members)
  [ -z "$left" ] || kill -s TERM $left 2>/dev/null
  tries=0
  while [ ! -e "$run/exit" ] && is_alive && [ $tries -lt $(($1 * 10)) ]; do sleep 0.1; tries=$((tries + 1)); done
  kill_members || die 5 "processes of $name live on after KILL: $(members | tr '\n' ' ')"
  tries=0
  while [ ! -e "$run/exit" ] && [ "$(born "$runner")" = "$runner_born" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
  [ "$(born "$runner")" != "$runner_born" ] || [ -e "$run/exit" ] || kill -s KILL "$runner"
}

# Whether the program that the script names in its first line is there.
is_runnable() {
  reader=$(sed -n '1s/^#![[:blank:]]*\([^[:blank:]]*\).*/\1/p' "$run/script")
  [ -z "$reader" ] || [ -x "$reader" ]
}

state() {
  [ -e "$run/created" ] || { echo absent; return; }
  created=$(cat "$run/created")
  [ -d "$run/started" ] || { echo "created $created"; return; }
  await_pid || { echo "lost $created 0"; return; }
  since=$(cat "$run/started/at")
  if [ ! -e "$run/exit" ] && is_alive; then echo "running $created $since"
  elif [ -e "$run/exit" ]; then echo "exited $created $since $(cat "$run/exit")"
  else echo "lost $created $since"
  fi
}

# Opens a file of a folder as 3. What it leads to is looked at once it is open: links may come and go meanwhile.
open_plain() {
  cd "$run/$1" || die 3 "the folder of $name is gone"
  path=.
  IFS=/
  set -f
  for part in $2; do
    path=$path/$part
    [ ! -h "$path" ] || die 6 "$2 leads through a link"
  done
  [ -f "$path" ] || die 6 "$2 is no plain file any more"
  exec 3<"$path"
  # Machines of containers have it; on others there are no walls between runs.
  [ -d /proc/self/fd ] || return 0
  case $(readlink /proc/self/fd/0 <&3) in
  "$(pwd -P)"/*) ;;
  *) die 6 "$2 leads through a link" ;;
  esac
}

# Entries of a letter, a size and a path each; x: a folder that may not be read, d: one that lies too deep.
list_archive() {
  if find . -maxdepth 0 -printf '' 2>/dev/null; then
    find . -maxdepth ${MOST_FOLDERS_DEEP + 1} ! -type d -printf '%y%s %p\0'
  else
    find . -maxdepth ${MOST_FOLDERS_DEEP + 1} ! -type d -exec "$sh" -c '
      for file; do
        letter=c size=0
        if [ -h "$file" ]; then letter=l
        elif [ -f "$file" ]; then letter=f size=$(($(stat -c %s "$file" 2>/dev/null || wc -c <"$file")))
        elif [ -p "$file" ]; then letter=p
        elif [ -S "$file" ]; then letter=s
        fi
        printf "%s%s %s\0" $letter "$size" "$file"
      done' sh {} +
  fi
  find . -mindepth ${MOST_FOLDERS_DEEP + 1} -maxdepth ${MOST_FOLDERS_DEEP + 1} -type d -exec "$sh" -c 'for folder; do printf "d0 %s\0" "$folder"; done' sh {} +
  find . -maxdepth ${MOST_FOLDERS_DEEP} -type d -exec "$sh" -c 'for folder; do { [ -r "$folder" ] && [ -x "$folder" ]; } || printf "x0 %s\0" "$folder"; done' sh {} +
}

# A file that goes meanwhile is no fault.
spool() {
  LC_ALL=C ls -lnA "$run/in" 2>/dev/null
  echo /
  LC_ALL=C ls -lnA "$run/out" 2>/dev/null
}

digest() {
  { sha256sum || shasum -a 256 || openssl dgst -sha256 -r; } 2>/dev/null | cut -c1-64 | grep . || die 6 "no program for SHA-256 on the host"
}

case $verb in
prepare)
  (umask 077 && mkdir -p "$run") && chmod 700 "$run" || exit 1
  mkdir -p "$run/repo" "$run/archive" "$run/secrets" && chmod 777 "$run/repo" "$run/archive" || exit 1
  fence
  [ -e "$run/created" ] && exit 0
  if [ -n "$2" ]; then
    mkdir -p "$run/in" "$run/out" "$run/bin" && chmod 777 "$run/out" || exit 1
    printf '%s' "$2" >"$run/bin/slipway" && chmod 755 "$run/in" "$run/bin" "$run/bin/slipway" || exit 1
  fi
  if [ -n "$3" ]; then
    printf '%s' "$3" >"$run/begin" && chmod 755 "$run/begin" || exit 1
  fi
  printf '%s' "$1" >"$run/program" && cat >"$run/script.new" && chmod 755 "$run/script.new" && mv "$run/script.new" "$run/script"
  ;;
create)
  [ -d "$run" ] || die 3 "the folder of $name is gone"
  fence
  [ -e "$run/created" ] && exit 0
  cat >"$run/launch" && date +%s >"$run/created.new" && mv "$run/created.new" "$run/created"
  ;;
start)
  [ -e "$run/created" ] || die 3 "the folder of $name is gone"
  fence
  if mkdir "$run/started" 2>/dev/null; then
    date +%s >"$run/started/at"
    : >"$run/log"
    detach=nohup
    command -v setsid >/dev/null && detach=setsid
    $detach "$sh" "$run/program" "$root" "$sh" keep "$name" 0 </dev/null >/dev/null 2>&1 &
  fi
  await_pid || die 1 "the run $name did not begin within 5 s"
  ;;
keep)
  trap : HUP INT TERM
  cd "$run/repo" || exit 1
  if command -v setsid >/dev/null; then
    setsid env "SLIPWAY_RUN=/$name/" "$sh" "$run/launch" >>"$run/log" 2>&1 </dev/null &
  else
    set -m
    env "SLIPWAY_RUN=/$name/" "$sh" "$run/launch" >>"$run/log" 2>&1 </dev/null &
    set +m
  fi
  first=$! runner=$$
  runner_born=$(born $$) first_born=$(born $first)
  echo "$runner $runner_born $first $first_born" >"$run/pid.new" && mv "$run/pid.new" "$run/pid"
  wait $first
  code=$?
  while kill -s 0 $first 2>/dev/null; do wait $first; code=$?; done
  # Told to end, what the first process has started has the grace time as well.
  tries=0
  [ -e "$run/stopping" ] && read -r tries <"$run/stopping"
  while [ "$tries" -gt 0 ] && [ -n "$(members)" ]; do sleep 0.1; tries=$((tries - 1)); done
  kill_members
  begun=
  case $code in 126 | 127) is_runnable || begun=unbegun ;; esac
  echo "$code $(date +%s) $begun" >"$run/exit.new" && mv "$run/exit.new" "$run/exit"
  ;;
find)
  state
  date +%s
  ;;
wait)
  await_pid
  rounds=0
  until [ -e "$run/exit" ] || [ ! -d "$run/started" ]; do
    rounds=$((rounds + 1))
    [ $((rounds % 20)) -ne 0 ] || is_alive || break
    sleep 0.25
  done
  state
  ;;
follow)
  at=$1
  rounds=0
  while [ -e "$run/log" ]; do
    over=
    rounds=$((rounds + 1))
    [ -e "$run/exit" ] && over=1
    [ $((rounds % 20)) -ne 0 ] || { await_pid && is_alive; } || over=1
    size=$(wc -c <"$run/log")
    if [ "$size" -gt "$at" ]; then
      tail -c +$((at + 1)) "$run/log" | head -c $((size - at)) || exit 0
      at=$((size))
    fi
    [ -z "$over" ] || break
    sleep 0.25
  done
  ;;
fence)
  [ ! -d "$run" ] || fence
  ;;
stop)
  [ -d "$run" ] || exit 0
  fence
  end_run "$1"
  ;;
files)
  cd -P "$run/archive" 2>/dev/null || die 3 "the archive of $name is gone"
  list_archive 2>/dev/null | head -c 16000000
  ;;
read)
  open_plain "$1" "$2"
  exec tail -c +$(($3 + 1)) <&3
  ;;
digest)
  open_plain archive "$1"
  digest <&3
  ;;
spooled)
  spool
  exit 0
  ;;
watch)
  seen= rounds=0 over= pause=0.1
  while [ -d "$run/in" ]; do
    [ -z "$1" ] || [ ! -e "$run/out/$1" ] || over=1
    now=$(spool)
    if [ "$now" != "$seen" ]; then
      printf '%s\0' "$now"
      seen=$now rounds=0 pause=0.1
    fi
    [ -z "$over" ] || break
    rounds=$((rounds + 1))
    [ $rounds -lt 50 ] || pause=0.4
    # Ends it when nobody reads any more.
    [ $((rounds % 20)) -ne 0 ] || printf '\0'
    sleep $pause
  done
  ;;
put)
  fence
  draft=$run/put.$$
  cat >"$draft" || { rm -f "$draft"; exit 1; }
  [ "$(digest <"$draft")" = "$2" ] || { rm -f "$draft"; die 1 "what came for $1 is not what was sent"; }
  chmod 644 "$draft"
  # A link is made only where there is nothing; some file systems have none.
  [ -e "$run/in/$1" ] || ln "$draft" "$run/in/$1" 2>/dev/null || [ -e "$run/in/$1" ] || mv "$draft" "$run/in/$1" || exit 1
  rm -f "$draft"
  wc -c <"$run/in/$1"
  ;;
discard)
  fence
  # What was asked before the answer: who looks meanwhile must not take it for one that has none.
  # Never what is below them: a folder may become a link while it is walked.
  rm -f "$run/out/$1"* 2>/dev/null
  rm -f "$run/in/$1"*
  ;;
terminal)
  [ -e "$run/created" ] || die 3 "the folder of $name is gone"
  fence
  : >"$run/terminal"
  cd "$run/repo" || exit 1
  SLIPWAY_RUN=/$name/
  export SLIPWAY_RUN
  exec "$sh" "$run/launch" "$@"
  ;;
remove)
  [ -d "$run" ] || exit 0
  fence
  end_run 0
  # Begun after its end.
  [ ! -e "$run/terminal" ] || { await_pid && kill_members; }
  remove_tree "$run"
  ;;
remains)
  [ -d "$root" ] || exit 0
  ls -1 "$root"
  ;;
probe)
  umask 077
  mkdir -p "$root" && file=$root/.probe-$$ || exit 1
  trap 'rm -f "$file"' EXIT
  printf '#!%s\nexit 0\n' "$sh" >"$file" && chmod 700 "$file" && "$file" || die 1 "programs in $root cannot be written and run"
  uname -s
  uname -m
  getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 0
  { sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo 2>/dev/null | grep . || sysctl -n hw.memsize 2>/dev/null | awk '{ printf "%d\n", $1 / 1024 }' | grep . || echo 0; }
  df -Pk "$root" | awk 'NR == 2 { print $4 }'
  ;;
esac
`;
