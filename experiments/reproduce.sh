#!/usr/bin/env bash
# The figures of docs/results.md, one command each; about 45 minutes on one core. JSON goes to docs/results/.
# usage: experiments/reproduce.sh [COMMLIB] [RUNS]     (the command to call, default commlib; where run folders go)
set -euo pipefail
commlib=${1:-commlib} runs=${2:-runs/evidence} here=$(cd "$(dirname "$0")/.." && pwd)
results=$here/docs/results
mkdir -p "$results" "$runs"

train() { # WORLD METHOD SEED [FLAGS]; TAG in the environment marks a variant
  local name=$1-$2${TAG:+-$TAG}-$3
  [ -s "$results/$name.json" ] && return
  $commlib train "$1" --method "$2" --seed "$3" --quiet --out "$runs/$name" --json "$results/$name.json" "${@:4}"
}

for seed in 0 1 2 3 4; do train guide ours $seed --episodes 4096 --parallel-worlds 4096; done
# the strongest simple rival, at its best width, and with twice the samples at the width of the demo
for seed in 0 1 2 3 4; do TAG=x2 train guide int8 $seed --message-width 2 --episodes 4096 --parallel-worlds 4096; done
TAG=x4-long train guide int8 0 --steps 400000 --episodes 4096 --parallel-worlds 4096
for seed in 0 1 2 3 4; do train traffic_junction_easy ours $seed; done
train traffic_junction_easy none 0
train predator_prey_easy ours 0
train predator_prey_easy none 0
for seed in 0 1 2 3 4; do train traffic_junction_easy dense $seed; done
train predator_prey_easy dense 0
for seed in 1 2; do train predator_prey_easy ours $seed; done
