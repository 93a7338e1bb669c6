#!/usr/bin/env bash
# All CPU measurements of LEADERBOARD.md, one after the other; what is done is not repeated. Needs a quiet machine,
# bertwright's extra "bench", and real data: the folder named by BERTWRIGHT_DATA, and for tokenising a csv file made by
# make_tokenize_data.py.
#
#   bash benchmarks/measure.sh RESULTS [TOKENIZE_CSV]
set -euo pipefail
results=$1
tokenize_csv=${2:-}
data=${BERTWRIGHT_DATA:?the folder of the data}
mkdir -p "$results/done"

measure() { # measure NAME ARGUMENTS...: one bench, once
  local name=$1
  shift
  [ -e "$results/done/$name" ] && return
  echo "== $name: bertwright bench $*" >&2
  uptime >&2
  bertwright bench "$@" --output "$results/" >"$results/done/$name.out" 2>&1 || {
    echo "failed: see $results/done/$name.out" >&2
    return
  }
  mv "$results/done/$name.out" "$results/done/$name"
}

toxic=$data/toxic_comments/train_1.csv
sst5=$data/sst5/sst-train.txt
measure train-minilm-toxic train "$toxic" --peers --rounds 3
# Scores of an untrained classifier all lie near a half: differences between them would tell nothing.
if [ ! -e "$results/toxic-run/result.json" ]; then
  bertwright train "$toxic" --test "$data/toxic_comments/train_2.csv" --output "$results/toxic-run" --overwrite \
    >"$results/done/toxic-run.out" 2>&1
fi
measure infer-minilm-toxic infer "$toxic" --run "$results/toxic-run" --peers --num-texts 2048 --rounds 3
# What 8 bits, and bfloat16, cost in quality: the same classifier on the same 10,000 comments.
for dtype in float32 auto int8; do
  if [ ! -e "$results/judged-$dtype/result.json" ]; then
    bertwright evaluate "$results/toxic-run" "$data/toxic_comments/train_2.csv" --dtype "$dtype" --overwrite \
      --output "$results/judged-$dtype" >"$results/done/judged-$dtype.out" 2>&1
  fi
done
measure train-tiny-toxic train "$toxic" --model bert-tiny --peers --rounds 3 --num-texts 1280
measure train-minilm-sst5 train "$sst5" --peers --rounds 3 --num-texts 1280
measure train-base-toxic train "$toxic" --model bert-base --peers --rounds 3 --num-texts 160 \
  --contenders trainer-best,trainer-bf16-weights
if [ -n "$tokenize_csv" ]; then
  measure tokenize tokenize "$tokenize_csv" --peers --rounds 3
fi
measure infer-base-toxic infer "$toxic" --model bert-base --peers --rounds 3 --num-texts 256 \
  --contenders bertwright-float32,bertwright-int8,transformers-bf16,onnxruntime-int8,openvino-f32,openvino-bf16,openvino-int8
measure engines-minilm-toxic engines "$data/toxic_comments/train_2.csv" --run "$results/toxic-run" --num-texts 1024 \
  --usd-per-hour 0.20
# All engines are held at once: with 24 GiB of memory OpenVINO's float32 had no room, and has a run of its own.
measure engines-base-toxic engines "$data/toxic_comments/train_2.csv" --model bert-base --num-texts 128 --num-alone 50 \
  --rounds 3 --usd-per-hour 0.20
measure engines-base-toxic-f32 engines "$data/toxic_comments/train_2.csv" --model bert-base --num-texts 128 --num-alone 50 \
  --rounds 3 --usd-per-hour 0.20 --contenders openvino-f32,openvino-bf16
for size in tiny mini; do
  # The fastest setting of Trainer, as far as it was looked for: compiled or not, in three sizes of a step.
  fastest=trainer-blocks-bf16-weights,trainer-blocks-compiled
  measure pretrain-$size pretrain "$data/imdb/test.parquet" --model bert-$size --rounds 3 --num-steps 4 \
    --contenders trainer-blocks,$fastest
  measure pretrain-$size-2048 pretrain "$data/imdb/test.parquet" --model bert-$size --rounds 2 --num-steps 8 \
    --batch-tokens 2048 --contenders $fastest
  measure pretrain-$size-32768 pretrain "$data/imdb/test.parquet" --model bert-$size --rounds 2 --num-steps 2 \
    --batch-tokens 32768 --contenders $fastest
done
# The fastest setting of Trainer that can be found: all that are known, each once.
measure train-minilm-search train "$toxic" --rounds 1 --num-texts 320 --peers \
  --contenders trainer-best,trainer-eager,trainer-bf16-weights,trainer-bf16-weights-sdpa,trainer-compiled
