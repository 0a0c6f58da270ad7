#!/usr/bin/env bash
# The figures of docs/results.md, one command each; some hours on one core. JSON goes to docs/results/, and a run whose
# JSON is there is not repeated: remove the files to measure again.
# usage: experiments/reproduce.sh [COMMLIB] [RUNS]     (the command to call, default commlib; where run folders go)
#        QUICK=1 experiments/reproduce.sh ...          (some of them again, in about ten minutes, beside what is published)
set -euo pipefail
commlib=${1:-commlib} runs=${2:-runs/evidence} here=$(cd "$(dirname "$0")/.." && pwd)
results=$here/docs/results
[ -z "${QUICK:-}" ] || results=$runs/results
mkdir -p "$results" "$runs"

train() { # WORLD METHOD SEED [FLAGS]; TAG in the environment marks a variant
  local name=${1//[:\/]/-}-$2${TAG:+-$TAG}-$3
  [ -s "$results/$name.json" ] && return
  $commlib train "$1" --method "$2" --seed "$3" --quiet --out "$runs/$name" --json "$results/$name.json" "${@:4}"
}

sweep() { # WORLD METHODS; results lie under their runs' names in docs/results/sweep
  [ -s "$results/sweep/$1-${2##*,}-4.json" ] && return
  $commlib sweep "$1" --methods "$2" --seeds 5 --jobs 1 --out "$runs/sweep"
  mkdir -p "$results/sweep"
  for run in "$runs/sweep/$1"-*/; do cp "$run/result.json" "$results/sweep/$(basename "$run").json"; done
}

on_ray() { # RUN FOLDER'S NAME
  [ -s "$results/$1-ray.json" ] && return
  $commlib evaluate "$runs/$1" --runtime ray --episodes 2048 --quiet --out "$runs/$1-ray" --json "$results/$1-ray.json"
}

all="--episodes 4096 --parallel-worlds 4096"
if [ -n "${QUICK:-}" ]; then
  train guide ours 0 $all
  train guide int8-gated 0 $all
  train secret ours 0
  train speaker_listener ours 0
  train predator_prey_easy none 0
  train predator_prey_easy ours 0
  for file in "$results"/*.json; do
    $commlib compare "$file" "$here/docs/results/$(basename "$file")"
  done
  exit
fi
for seed in 0 1 2 3 4; do train guide ours $seed $all; done
for seed in 0 1 2 3 4; do
  train predator_prey_easy ours $seed
  on_ray predator_prey_easy-ours-$seed
done
for seed in 0 1; do
  train predator_prey_easy none $seed
  on_ray predator_prey_easy-none-$seed
done
for seed in 0 1 2 3 4; do train traffic_junction_easy ours $seed; done
for seed in 0 1 2 3 4; do train traffic_junction_easy dense $seed; done
train traffic_junction_easy none 0
# the strongest simple rival on the same graph, at the width of the demo and at its best width
for seed in 0 1 2 3 4; do train guide int8-gated $seed $all; done
for seed in 0 1 2 3 4; do TAG=x2 train guide int8-gated $seed --message-width 2 $all; done
train mpe2:simple_speaker_listener_v4 ours 0 --steps 50000
train pettingzoo:sisl/pursuit-v5 ours 0 --steps 5000
train guide random 0 --gate-rate 0.1 $all
for price in 0.00005 0.0005 0.005 0.02 0.05 0.1 0.3 1.0; do
  TAG=priced-$price train guide ours 0 --stages.priced 0.2 --bit-price $price $all
done
for seed in 0 1 2 3 4; do train secret ours $seed; done
for seed in 0 1 2; do train guide_8 ours $seed; done
TAG=commformer train guide_8 ours 0 --topology commformer --density 0.2
train secret random 0 --gate-rate 0.05
for seed in 0 1 2 3 4; do
  for method in int8-gated dense vq-vib ddcl etc int8 none commformer ic3net narrow commnet tarmac random gvq schednet; do
    train predator_prey_easy $method $seed
  done
done
for method in ours dense; do
  for seed in 0 1 2 3 4; do train predator_prey_medium $method $seed; done
done
for seed in 0 1 2; do TAG=router train predator_prey_easy ours $seed --router learned; done
# trained under a price: five seeds at the one that paid, and seven others
rate="--stages.fine-tune 0.1 --stages.priced 0.2 --stages.price"
for seed in 0 1 2 3 4; do TAG=rate train predator_prey_easy ours $seed $rate 0.016; done
TAG=rate train predator_prey_easy int8-gated 0 $rate 0.016
for price in 0.001 0.002 0.004 0.008 0.024 0.032 0.05; do TAG=rate-$price train predator_prey_easy ours 0 $rate $price; done
for seed in 0 1 2 3 4; do TAG=rex train predator_prey_easy ours $seed --learning.schedule rex; done
# a goal that has to be passed on, or remembered
for seed in 0 1 2; do train guide_relay ours $seed; done
train guide_recall ours 0
TAG=one-round train guide_relay ours 0 --rounds 1
TAG=forgetful train guide_recall ours 0 --memory none
# agents known by nothing, by number and by role; teams of other sizes
run=predator_prey_easy-ours-anonymous
TAG=anonymous train predator_prey_easy ours 0 --ids none --aggregation attention
for n in 3 4 5; do
  $commlib evaluate "$runs/$run-0" --agents $n --quiet --out "$runs/$run-$n" --json "$results/predator_prey_easy-anonymous-$n-agents.json"
done
for n in 3 5; do
  $commlib evaluate "$runs/$run-0" --agents $n --budget "1 bit/run" --quiet --out "$runs/$run-gagged-$n" \
    --json "$results/predator_prey_easy-anonymous-gagged-$n-agents.json"
done
TAG=anonymous train guide ours 0 --ids none --aggregation mean --topology ring
for n in 3 5 8; do
  $commlib evaluate "$runs/guide-ours-anonymous-0" --agents $n --quiet --out "$runs/guide-ours-anonymous-$n" \
    --json "$results/guide-anonymous-$n-agents.json"
done
for seed in 0 1; do
  for ids in onehot role; do TAG=attention-$ids train predator_prey_easy ours $seed --ids $ids --aggregation attention; done
done
# what must be said is known in these two as well: log2 10 bits an image, log2 3 bits an episode
for seed in 0 1 2 3 4; do train digits ours $seed; done
for method in ours dense none; do
  for seed in 0 1 2 3 4; do train speaker_listener $method $seed; done
done
# one team for two worlds
for balance in worst even; do
  for seed in 0 1 2; do
    TAG=$balance train guide+guide_recall ours $seed --memory traces --learning.balance $balance --steps 400000
  done
done
# with a view of 3x3
for seed in 0 1 2 3 4; do train predator_prey_easy_vision_1 ours $seed; done
train predator_prey_easy_vision_1 none 0
for price in 0.001 0.004 0.008 0.016 0.03; do TAG=rate-$price train predator_prey_easy_vision_1 ours 0 $rate $price; done
# the seed paper's world, as far as it was played: seed 0
for method in none dense ours; do train search_extract $method 0; done
# what a set and a guess of the return do where they are not needed
TAG=set train predator_prey_easy ours 1 --aggregation set --learning.foresight 0.5
# learned with and without loss, played at four losses
for seed in 0 1 2 3 4; do
  for way in plain lossy; do
    TAG=$way train predator_prey_easy ours $seed $([ $way = plain ] || echo --learning.channel loss=8.2%)
    for loss in 0 1.5 8.2 15.6; do
      name=predator_prey_easy-ours-$way-loss-$loss-$seed
      [ -s "$results/$name.json" ] || $commlib evaluate "$runs/predator_prey_easy-ours-$way-$seed" --hosts 3 --parallel-worlds 16 \
        --episodes 512 --channel "loss=$loss%" --quiet --out "$runs/$name" --json "$results/$name.json"
    done
  done
done
# the sweep; ours and dense are above where they are not named here
sweep predator_prey_medium int8-gated,int8,none,random,gvq,ddcl,commformer,ic3net,tarmac
sweep traffic_junction_easy int8-gated,int8,none,random,gvq,ddcl,commformer,ic3net,tarmac
for world in speaker_listener guide; do
  sweep $world none,dense,int8,int8-gated,random,ic3net,tarmac,commformer,gvq,ddcl,ours
done
