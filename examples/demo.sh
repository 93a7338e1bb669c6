#!/usr/bin/env bash
# The demo: fine-tune the real all-MiniLM-L6-v2 on the demo comments, see how good it is, score two sentences.
set -euo pipefail
cd "$(dirname "$0")/.."

bertwright train examples/comments_train.csv --test examples/comments_test.csv --epochs 3 \
  --output runs/demo --overwrite

echo
echo 'bertwright predict runs/demo --text "..." --text "..."'
bertwright predict runs/demo --quiet \
  --text "Thanks for the tip, my tomatoes have never looked better." \
  --text "Nobody asked you, you clueless clown."
