#!/usr/bin/env bash
#SBATCH --job-name=ddpm_jax
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end: the run saves itself, and is queued again.
#SBATCH --signal=TERM@120

# One run in many processes under Slurm, one process for each GPU; docs/launch/slurm.md.
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 scripts/launch/slurm.sh \
#     --config=configs/digits.py --workdir=/shared/digits
set -u
PYTHON=${PYTHON:-python}
MAX_RESTARTS=${MAX_RESTARTS:-20}

# Who is lost ends the others, with a line that names it, so Slurm need not.
srun --kill-on-bad-exit=0 "$PYTHON" -m ddpm_jax train "$@" --coordinator=auto --lock_wait=600
code=$?
case $code in
  75 | 76 | 134 | 137 | 143) ;; # stopped and saved; a process is lost, or was killed: go on
  *) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 # it ends this script
fi
exit "$code"
