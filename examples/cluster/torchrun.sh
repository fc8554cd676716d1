#!/usr/bin/env bash
# Two machines without a scheduler: the same line on both, at about the same time.
#   bash torchrun.sh FIRST photos/ --recipe imagenet-100ep --out /shared/runs/photos
# FIRST is the name or address of one of the two, as both know it; the run folder lies where both see it.
# A process that dies is started again with all others, up to three times, from what was saved last.
set -euo pipefail
first=$1
shift
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # a store of its own for each restart: no addresses of those that died
exec torchrun --nnodes "${NODES:-2}" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$first:29400" --rdzv-id "${RUN_ID:-mec}" \
    -m mec pretrain "$@" --resume
