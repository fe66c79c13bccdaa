#!/usr/bin/env bash
# A run on SLURM that is put back into the queue before its time is up, and goes on by itself, as often as it takes:
#   sbatch experiments/slurm.sh --config ppssl:folder/pretrain --data.root path/to/images --trainer.default_root_dir runs/a
# default_root_dir must be this run's own, on a disk that all machines see. A job that is preempted or whose machine is
# lost is put back by SLURM itself (--requeue).
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
# SIGTERM reaches all processes 180 s before the end: the step is done and saved, and they end with 143. (Lightning's own
# requeueing, on SIGUSR1, saves in mid-step, and its file would be preferred to newer checkpoints ever after.)
code=0
srun ppssl fit "$@" --resume auto --trainer.strategy ddp \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" || code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
