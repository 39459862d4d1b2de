#!/bin/bash
# A throw-away SLURM cluster on this machine, for tests; needs no systemd and, but for DDP, no root.
#
#   slurm/cluster.sh up DIR [NODES=2]    starts it; then: . DIR/env.sh
#   slurm/cluster.sh down DIR            stops it
#
# Environment of `up`:
#   CPUS=4          of each node; may exceed the hardware
#   ACCT=shim|none  a stand-in for sacct on PATH, or no accounting at all
#   EXTRA=          further lines of slurm.conf
#   PORT=           of slurmctld, those of the nodes follow; any free ones by default
# Packages of Debian: slurm-wlm munge
set -eu

usage() { sed -n '2,12s/^# \?//p' "$0"; exit 2; }
[ $# -ge 2 ] || usage
dir=$(realpath -m "$2")
nodes=${3:-2}
socket=$dir/munge.socket
mark="# throw-away cluster in $dir"

free_ports() { # prints the first of nodes + 1 free ports in a row, below those that clients are given
  local first port
  while :; do
    first=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    for port in $(seq "$first" $((first + nodes))); do
      ! (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null || continue 2
    done
    echo "$first"; return
  done
}

slurm_conf() { # PORT
  cat <<END
ClusterName=throwaway
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$1
SlurmUser=$(id -un)
SlurmdUser=$(id -un)

# An own munged with its own key. A requeued job waits until its old credential has expired: 120 s
# by default.
AuthType=auth/munge
AuthInfo=socket=$socket,cred_expire=5

# Listens on this machine alone.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny

StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log

# Cgroups may be missing in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More CPUs than the hardware has.
SlurmdParameters=config_overrides
# Looks for jobs to start every 2 s instead of 60 and 30.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
# A node that was down is used again by itself.
ReturnToService=2
# From SIGTERM to SIGKILL: 30 s by default, which a job that goes on uses up.
KillWait=5
# squeue, and so the stand-in for sacct, forgets finished jobs after this: 300 s by default.
MinJobAge=86400
NodeName=n[1-$nodes] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$(($1 + 1))-$(($1 + nodes))] CPUs=${CPUS:-4} RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
${EXTRA:-}
END
}

sacct() { # enough for: sacct -o JobID,State,NodeList --parsable2 -j A -j B
  cat <<'END'
#!/bin/bash
echo 'JobID|State|NodeList'
while [ $# -gt 0 ]; do
  if [ "$1" = -j ]; then squeue -h -t all -j "$2" -o '%i|%T|%N' 2>/dev/null; shift; fi
  shift
done
exit 0
END
}

wait_for() { # COMMAND: up to 20 s by the clock, as a client without its daemon takes many itself
  local end=$((SECONDS + 20))
  until eval "$1" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "cluster.sh: in vain for 20 s: $1" >&2
      tail -n 5 "$dir"/log/slurmctld.log >&2 || :
      return 1
    fi
    sleep .1
  done
}

set_names() { # ADD|REMOVE a line for n1, n2 ..., by which the processes of one job find each other
  [ -w /etc/hosts ] || return 0
  # Written in place: in a container the file is a mount, which cannot be replaced. Where another
  # cluster's line gives the names, this one needs its own, as the other one goes with its cluster.
  (
    flock 9
    lines=$(grep -vF "$mark" /etc/hosts || :)
    if [ "$1" = ADD ] && { grep -q '# throw-away cluster' <<<"$lines" || ! getent hosts n1 >/dev/null; }
    then lines+=$'\n'"127.0.0.1$(printf ' n%s' $(seq "$nodes")) $mark"
    fi
    echo "$lines" > /etc/hosts
  ) 9< /etc/hosts
}

node() { # NAME: slurmd once aborted (22.05.8, two steps launched at one moment), so it comes back
  trap 'kill $! 2>/dev/null; exit' TERM
  while :; do
    slurmd -D -N "$1" & wait $! || :
    sleep 1
  done
}

up() {
  mkdir -p "$dir"/{etc,state,spool,log,run,bin}
  chmod 755 "$dir"
  export SLURM_CONF=$dir/etc/slurm.conf
  slurm_conf "${PORT:-$(free_ports)}" > "$SLURM_CONF"
  echo "export SLURM_CONF=$SLURM_CONF" > "$dir"/env.sh
  if [ "${ACCT:-shim}" = shim ]; then
    sacct > "$dir"/bin/sacct
    chmod 755 "$dir"/bin/sacct
    echo "export PATH=$dir/bin:\$PATH" >> "$dir"/env.sh
  fi
  [ -s "$dir"/etc/munge.key ] || mungekey --create --keyfile "$dir"/etc/munge.key
  # Every path is given, as root does not own the default ones.
  munged --socket="$socket" --key-file="$dir"/etc/munge.key --log-file="$dir"/log/munged.log \
    --pid-file="$dir"/run/munged.pid --seed-file="$dir"/etc/munge.seed --origin=127.0.0.1
  slurmctld
  local name
  for name in $(seq -f 'n%g' "$nodes"); do
    mkdir -p "$dir"/spool/"$name"
    node "$name" > "$dir"/log/slurmd."$name".out 2>&1 < /dev/null &
    echo $! > "$dir"/run/loop."$name".pid
  done
  set_names ADD
  wait_for "[ \"\$(timeout 2 sinfo -h -p debug -t idle -o %D)\" = $nodes ]" || { down; exit 1; }
}

stop() { # PIDFILE: SIGTERM, then SIGKILL, as a slurmd that never registered takes long to obey
  local pid
  [ -s "$1" ] || return 0
  pid=$(cat "$1")
  # A zombie is gone, too: process 1 of a container reaps late or never.
  gone() { case $(ps -o stat= -p "$pid") in ''|Z*) true;; *) false;; esac; }
  case $(ps -o comm= -p "$pid") in # the number may be somebody else's by now
    slurm*|cluster.sh|bash|munged) kill "$pid" 2>/dev/null || : ;;
    *) rm -f "$1"; return 0 ;;
  esac
  for _ in $(seq 50); do ! gone || break; sleep .1; done
  gone || kill -9 "$pid" || :
  rm -f "$1"
}

down() {
  local file
  for file in "$dir"/run/loop.*.pid "$dir"/run/slurmd.*.pid "$dir"/run/{slurmctld,munged}.pid; do
    stop "$file"
  done
  # slurmd may hang as it ends, when its pid file is gone already, and steps outlive it.
  local pid
  for pid in $(pgrep -x 'slurmd|slurmstepd|srun' || :); do
    if grep -qzFx "SLURM_CONF=$dir/etc/slurm.conf" "/proc/$pid/environ" 2>/dev/null; then
      kill -9 "$pid" 2>/dev/null || :
    fi
  done
  set_names REMOVE
}

case $1 in up|down) "$1" ;; *) usage ;; esac
