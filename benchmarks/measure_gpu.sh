#!/usr/bin/env bash
# All GPU measurements of LEADERBOARD.md, one after the other; what is done is not repeated. Needs a CUDA GPU, bertwright's
# extras "bench" and "test", and the csv file made by make_tokenize_data.py, whose texts stand for real comments.
#
#   bash benchmarks/measure_gpu.sh RESULTS TEXTS_CSV
set -euo pipefail
results=$1
texts=$2
# An eighth of the hourly price of AWS's p5en.48xlarge (8 x H200), on demand.
usd_per_hour=${USD_PER_HOUR:?the price of an hour of this machine}
mkdir -p "$results/done"

once() { # once NAME COMMAND...
  local name=$1
  shift
  [ -e "$results/done/$name" ] && return
  echo "== $name: $*" >&2
  "$@" >"$results/done/$name.out" 2>&1 || {
    echo "failed: see $results/done/$name.out" >&2
    return
  }
  mv "$results/done/$name.out" "$results/done/$name"
}
bench() { # bench NAME ARGUMENTS...
  local name=$1
  shift
  once "$name" bertwright bench "$@" --usd-per-hour "$usd_per_hour" --output "$results/"
}

once tests python -m pytest -q -m gpu
bench train-base-32 train "$texts" --model bert-base --num-texts 65536 --peers --contenders trainer-best
bench train-base-256 train "$texts" --model bert-base --batch-size 256 --num-texts 131072 --peers --contenders trainer-best
bench infer-base infer "$texts" --model bert-base --num-texts 131072 --peers --contenders transformers-bf16
for size in tiny mini small; do
  bench "train-$size" train "$texts" --model "bert-$size" --num-texts 65536 --peers --contenders trainer-best
done
# A million texts learnt once, half a million scored: time and cost of the whole job.
once split bash -c "python - '$texts' '$results' <<'PY'
import sys
import pyarrow as pa, pyarrow.csv as csv
table = csv.read_csv(sys.argv[1], parse_options=csv.ParseOptions(newlines_in_values=True))
csv.write_csv(table.slice(0, 1_000_000), sys.argv[2] + '/train_1m.csv')
csv.write_csv(table.slice(1_000_000, 500_000), sys.argv[2] + '/test_500k.csv')
PY"
once job bertwright train "$results/train_1m.csv" --test "$results/test_500k.csv" --model bert-base \
  --tokenizer all-MiniLM-L6-v2 --output "$results/job" --no-texts --usd-per-hour "$usd_per_hour" --json
