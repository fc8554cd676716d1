#!/usr/bin/env bash
# A run under SLURM that outlives its time limit, `scontrol requeue` and lost nodes:
#   sbatch slurm.sh photos/ --recipe imagenet-100ep --out runs/photos
# Everything after slurm.sh goes to `mec pretrain`; the run folder lies where all nodes see it.
#SBATCH --job-name=mec
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2          # one a GPU: then add --gpus-per-node=2 here
#SBATCH --cpus-per-task=1            # 1 + --workers
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180          # three minutes before the limit: a step ends, its state is saved, the job goes on
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mec-%j.log
set -u

asked=
stop() {
    asked=$1
    kill -s USR1 "$training" 2>/dev/null || true # srun passes it on to all tasks: each ends after its step
}
trap 'stop requeue' USR1 # the limit is near
trap 'stop end' TERM     # scancel, scontrol requeue: SLURM itself does the rest

srun mec pretrain "$@" --resume &
training=$!
code=129
while [ "$code" -gt 128 ] && kill -0 "$training" 2>/dev/null; do # a signal interrupts wait: wait again
    wait "$training"
    code=$?
done
if [ "$asked" = requeue ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
