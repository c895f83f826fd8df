#!/usr/bin/env bash
# A Slurm cluster of one node (munge, slurmctld, slurmd), without systemd or cgroups; as root.
#   one_node_slurm.sh start DIR PORT   prints the SLURM_CONF to export
#   one_node_slurm.sh lose DIR         kills the node's slurmd and what it runs
#   one_node_slurm.sh restore DIR      starts slurmd again
#   one_node_slurm.sh stop DIR
set -euo pipefail
dir=${2:?directory}
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf
case ${1:?start, lose, restore or stop} in
start)
  port=${3:?port}
  mkdir -p "$dir/spool" "$dir/state" /run/munge
  cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# Without this a job that is queued again waits for two minutes.
AuthInfo=cred_expire=5
SlurmctldPort=$port
SlurmdPort=$((port + 1))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/ctld.pid
SlurmdPidFile=$dir/d.pid
SlurmctldLogFile=$dir/ctld.log
SlurmdLogFile=$dir/d.log
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
${EXTRA:-}
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  if ! munge -n >/dev/null 2>&1; then
    chown munge: /run/munge /var/log/munge /etc/munge /var/lib/munge
    if [ ! -f /etc/munge/munge.key ]; then
      dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key 2>/dev/null
      chown munge: /etc/munge/munge.key
      chmod 400 /etc/munge/munge.key
    fi
    runuser -u munge -- munged --force
    sleep 1
  fi
  slurmctld
  sleep 1
  slurmd
  for _ in $(seq 30); do sinfo -h -o %t 2>/dev/null | grep -q idle && break; sleep 1; done
  sinfo -h -o %t | grep -q idle
  echo "$SLURM_CONF"
  ;;
lose)
  kill -9 "$(cat "$dir/d.pid")"
  pkill -9 slurmstepd || true
  # What its job steps run, known by what Slurm set for them; nobody else's.
  for process in /proc/[0-9]*; do
    grep -qzx "SLURM_CONF=$SLURM_CONF" "$process/environ" 2>/dev/null \
      && grep -qz "^SLURM_STEP_ID=[0-9]" "$process/environ" 2>/dev/null \
      && grep -qz "^SLURM_PROCID=" "$process/environ" 2>/dev/null \
      && kill -9 "${process#/proc/}" 2>/dev/null
  done
  true
  ;;
restore) slurmd ;;
stop) for f in d.pid ctld.pid; do kill "$(cat "$dir/$f")" 2>/dev/null || true; done ;;
esac
