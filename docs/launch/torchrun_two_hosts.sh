#!/bin/bash
# The same line on every host, in any order: bash docs/launch/torchrun_two_hosts.sh FIRST_HOST
# FIRST_HOST is a name or address of one of them that all can reach. From the folder of the checkout, which all hosts must see at the same path,
# with runs/ in it. A process for each GPU. A process that dies is started again with all others, three times; after a host has died, start the line
# again on all of them. The run goes on from its last checkpoint.
set -e
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else hosts that count their restarts differently wait for each other for ever (docs/machines.md)
first_host=${1:?which host do the others meet at?}

torchrun --nnodes 2 --nproc-per-node gpu --rdzv-backend c10d --rdzv-id distill --rdzv-endpoint "$first_host:29500" --max-restarts 3 \
  distill/run.py --recipe imagenet/r50_to_r18 data.root=/shared/imagenet --resume
