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
# Pretraining. Comments are short: so many in a row make a document that fills every sequence.
once documents bash -c "python - '$texts' '$results' <<'PY'
import sys
import pyarrow as pa, pyarrow.csv as csv, pyarrow.parquet as parquet
table = csv.read_csv(sys.argv[1], parse_options=csv.ParseOptions(newlines_in_values=True)).slice(0, 200_000)
name = next(one.name for one in table.schema if pa.types.is_string(one.type))
texts = table[name].to_pylist()
documents = [' '.join(texts[start : start + 200]) for start in range(0, len(texts), 200)]
parquet.write_table(pa.table({'text': documents}), sys.argv[2] + '/documents.parquet')
PY"
bench pretrain-base pretrain "$results/documents.parquet" --model bert-base --batch-tokens 65536 --num-steps 20 --peers
# In sequences a second (texts_per_s of the line): ours, unofficial, no result of MLPerf's.
bench pretrain-large-512 pretrain "$results/documents.parquet" --model bert-large --max-length 512 --batch-tokens 65536 --num-steps 20
