#!/usr/bin/env bash
# Trains on two hosts with eight GPUs each, as a Slurm job that requeues itself:
#
#   WORKDIR=/shared/runs/t256 sbatch recipes/slurm.sh \
#     --config=stylegan3_t:256,batch=128 --config.data.source=/shared/images.zip
#
# One process for each GPU: that is how JAX shares GPUs out among Slurm's tasks, so
# give all GPUs to the node, not one to each task. Two minutes before the time limit
# and on preemption Slurm sends SIGTERM; all processes then save the same step and
# exit with status 75.
#SBATCH --job-name=sg3jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sg3jax-%j.log
set -u

if [ -z "${WORKDIR:-}" ]; then
  echo 'error: WORKDIR must name the run folder, on storage that all hosts see:' \
    'WORKDIR=/shared/runs/NAME sbatch recipes/slurm.sh ...' >&2
  exit 2
fi

# A process that was killed must not leave the others waiting for 40 seconds: Slurm
# ends them, too. All are started again, since a run cannot go on with fewer.
srun --kill-on-bad-exit=1 sg3jax train --distributed --workdir="$WORKDIR" "$@"
status=$?

# 75 asks for another start, as does a signal (128 and more): see docs/robustness.md.
# Anything else is done, or an error that a person must see.
if [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; then
  exit "$status"
fi
restarts=${SLURM_RESTART_COUNT:-0}
if [ "$restarts" -ge "${MAX_RESTARTS:-100}" ]; then
  echo "error: the job was started again $restarts times, and ended with status" \
    "$status: see the log, and raise MAX_RESTARTS to go on" >&2
  exit "$status"
fi
echo "status $status: the job is queued again, and goes on from its newest checkpoint"
scontrol requeue "$SLURM_JOB_ID"
