#!/usr/bin/env bash
# Runs the program as one job step: step.sh [OPTIONS OF srun] -- [FLAGS OF THE PROGRAM]
#
# When it was asked to stop in time it has saved and ends with exit code 75; the job then goes back into the
# queue. Every other code is handed on: 0 finished, 2 a mistake in the flags, anything else an error.
set -euo pipefail

options=()
while (($#)) && [[ "$1" != -- ]]; do
  options+=("$1")
  shift
done
shift # the --

# Every process ends with 75 when it was asked to stop; a cluster that kills a step at the first exit code other
# than 0 would make 137 or 143 of it. A lost process is noticed by the others themselves, through JAX's heartbeat.
# srun does not take --cpus-per-task over from sbatch (SLURM 22.05 and newer).
status=0
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${options[@]}" \
  "${PYTHON:-python}" -m mamlpp_jax.main "$@" || status=$?
if ((status == 75)) && [[ -n "${SLURM_JOB_ID:-}" ]]; then
  echo "stopped and saved: job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
