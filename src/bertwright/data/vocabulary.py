"""A WordPiece vocabulary learnt from a corpus (Schuster and Nakajima 2012; as BERT's, arXiv 1810.04805, section 3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import tokenizers

from bertwright.data.columns import source_files
from bertwright.data.corpus import Documents, read_documents
from bertwright.data.texts import Texts
from bertwright.data.token_manifest import is_token_cache
from bertwright.data.tokenize import files_sha256
from bertwright.errors import DataError
from bertwright.progress import Reporter
from bertwright.runs import whole_folder, write_text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BYTES_AT_ONCE = 1 << 20


def vocabulary_of(
    paths: Sequence[str],
    size: int,
    cased: bool,
    cache: Path,
    reporter: Reporter,
    text_column: str | None = None,
    documents: Documents = "auto",
    on_bad_row: Literal["error", "skip"] = "skip",
) -> Path:
    """The folder with a vocab.txt of up to ``size`` tokens learnt from files; kept in ``cache`` for the next time.

    Raises:
        DataError: files that cannot be read, or too few different words in them.
    """
    sources = source_files(paths)
    folders = [path for path in sources if is_token_cache(path)]
    if folders:
        raise DataError(f"{folders[0]}: found a folder of token ids, expected files of texts for --train-vocabulary")
    parts = [1, files_sha256(sources), size, cased, text_column, documents]
    folder = cache / ("vocabulary-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])
    if (folder / "vocab.txt").is_file():
        return folder
    texts = read_documents(sources, text_column, documents, on_bad_row).texts
    tokens = learn_vocabulary(texts, size, cased, reporter)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, overwrite=False) as partial:
        partial.mkdir()
        write_text(partial / "vocab.txt", "\n".join(tokens) + "\n")
        values = {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased, "model_max_length": 512}
        write_text(partial / "tokenizer_config.json", json.dumps(values, indent=2) + "\n")
    return folder


def learn_vocabulary(texts: Texts, size: int, cased: bool, reporter: Reporter) -> list[str]:
    """The tokens of a WordPiece vocabulary, special ones first, in order of their ids."""
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=not cased)
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), continuing_subword_prefix="##", show_progress=False
    )

    def batches() -> Iterator[list[str]]:
        with reporter.progress("Learning words", len(texts)) as advance:
            for chunk in texts.chunks(_BYTES_AT_ONCE):
                yield chunk.to_pylist()
                advance(len(chunk))

    model.train_from_iterator(batches(), trainer)
    found = model.get_vocab()
    if len(found) <= len(SPECIAL):
        raise DataError("found no words in the corpus, expected some to learn a vocabulary from")
    return sorted(found, key=lambda token: found[token])
