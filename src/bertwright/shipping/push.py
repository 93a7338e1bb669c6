"""The act of publishing a classifier on the hub: its model and a model card, in one commit."""

from __future__ import annotations

import fnmatch
import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.config.base import build, expand_home
from bertwright.config.evaluate import BiasConfig
from bertwright.config.push import PushConfig
from bertwright.data.label_cells import show_labels
from bertwright.data.table import show
from bertwright.errors import RunError, UserError
from bertwright.evaluation.measure_bias import run_bias
from bertwright.model.hub_failure import http_error, hub_errors, hub_failure, is_unreadable, named
from bertwright.model.hub_transfer import checksums, passes, patiently
from bertwright.model.sources import HUB_FILES
from bertwright.progress import Reporter
from bertwright.reporting.material import Material, object_in, read_material
from bertwright.reporting.words import size_words
from bertwright.runs import Run, open_run
from bertwright.shipping.model_card import model_card

CARD = "README.md"
_OWNED_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(run: str | Path, name: str, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Publish a run's classifier on the hub as ``name`` (owner/name); returns its address and commit.

    ``settings`` are those of ``bertwright push``. The token is huggingface_hub's: HF_TOKEN, or `hf auth login`.

    Raises:
        UserError: bad settings, a run without a classifier, a name that is none, or a hub that refuses.
    """
    config = build(PushConfig, {**settings, "run": run, "name": name})
    return run_push(config, Reporter(quiet=quiet))


def run_push(config: PushConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the card, gather the files, send them and see whether all of them arrived."""
    if not _OWNED_NAME.fullmatch(config.name):
        raise UserError(f"{config.name}: not a name to publish under; expected owner/name")
    run = open_run(config.run)
    if not run.finished or not (run.model_folder / "config.json").is_file() or not run.is_training:
        raise RunError(
            f"{config.run}: found a run of {run.act} ({run.state}), expected a finished training with its model"
        )
    card = _card(config, run, reporter)
    if config.dry_run is not None:
        return _written(Path(config.dry_run), run, card, reporter)
    with tempfile.TemporaryDirectory(prefix="bertwright-") as folder:
        files = _gathered(Path(folder), run, card)
        return _sent(files, config, reporter)


def _card(config: PushConfig, run: Run, reporter: Reporter) -> str:
    if config.card is not None:
        try:
            return Path(expand_home(config.card)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--card: {config.card}: cannot be read ({error})") from None
    material = read_material(run)
    for problem in material.problems:
        reporter.warn(f"the card lacks what stands in a file that cannot be used: {problem}")
    return model_card(_judged_by_groups(config, replace(material, problems=[]), reporter), config.name, config)


def _judged_by_groups(config: PushConfig, material: Material, reporter: Reporter) -> Material:
    """What is known of the run, with its bias, as far as it can be known."""
    run = material.run
    if config.bias is not None:
        record = _bias_in(config.bias, material)
        if Path(str(record.get("run"))).resolve() != run.path.resolve():
            reporter.warn(f"--bias: {config.bias} is of {record.get('run')}; it stands in the card of {run.path}")
    elif object_in(material.judgement, "bias").get("groups"):
        return material
    else:
        try:
            record = run_bias(build(BiasConfig, {"run": str(run.path)}), Reporter(quiet=True, results=False))
        except UserError:  # no texts were kept, none holds such a word, or there are too many labels to choose one
            return material
    result = {**(run.result or {}), "judgement": {**material.judgement, "bias": record}}
    return replace(material, run=replace(run, result=result))


def _bias_in(path: str, material: Material) -> dict[str, Any]:
    """What ``bertwright bias --json`` printed."""
    try:
        record = runs.read_json(Path(expand_home(path)))
    except RunError as error:
        raise UserError(f"--bias: {error}") from None
    if not isinstance(record.get("groups"), list) or not isinstance(record.get("judged_on"), dict):
        raise UserError(f"--bias: {path}: found something else, expected the line that `bertwright bias --json` prints")
    if record.get("label") not in material.labels:
        raise UserError(
            f"--bias: {path}: found the bias of {show(str(record.get('label')))}, expected one of this run's labels, "
            f"{show_labels(material.labels)}"
        )
    if not record["groups"]:
        raise UserError(f"--bias: {path}: found no groups, expected those that were judged: leave it out")
    return record


def _gathered(folder: Path, run: Run, card: str) -> dict[str, Path]:
    """What is published, by its name there; the model's files stay where they are."""
    (folder / CARD).write_text(card, encoding="utf-8")
    model = {path.name: path for path in sorted(run.model_folder.iterdir()) if path.is_file() and path.name != CARD}
    return {CARD: folder / CARD, **model}


def _written(folder: Path, run: Run, card: str, reporter: Reporter) -> dict[str, Any]:
    if folder.exists():
        raise RunError(f"--dry-run: {folder} exists; name a new folder")
    with runs.whole_folder(folder, False, lambda _: False) as partial:
        partial.mkdir(parents=True)
        for name, path in _gathered(partial, run, card).items():
            if name != CARD:
                shutil.copyfile(path, partial / name)
    reporter.say(f"not published; what would be: {folder}")
    return {"folder": str(folder), "files": sorted(path.name for path in folder.iterdir())}


def _sent(files: dict[str, Path], config: PushConfig, reporter: Reporter) -> dict[str, Any]:
    import huggingface_hub

    if reporter.quiet:
        huggingface_hub.utils.disable_progress_bars()
    hub = huggingface_hub.HfApi()
    say = reporter.say
    size = sum(path.stat().st_size for path in files.values())
    say(f"publishing {len(files)} files ({size_words(size)}) as {config.name}")
    # Unasked, a new repository is what its owner has chosen for new ones: an organisation may keep them private.
    visibility: dict[str, Any] = {"private": True} if config.private else {}

    def listed() -> dict[str, Any]:
        """The files there, by name."""
        found = hub.model_info(config.name, revision=config.revision, files_metadata=True)
        return {file.rfilename: file for file in found.siblings or ()}

    removed: set[str] = set()

    def commit() -> Any:
        # Anew each time: an operation remembers what the last attempt made of it, whose answer may have been lost.
        stale = _stale(files, listed())
        if stale - removed:
            reporter.warn(f"{config.name}: removing what another model left there: {', '.join(sorted(stale))}")
            removed.update(stale)
        operations: list[Any] = [
            *(
                huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
                for name, path in files.items()
            ),
            *(huggingface_hub.CommitOperationDelete(path_in_repo=name) for name in sorted(stale)),
        ]
        message = config.message or "Publish a classifier made with bertwright"
        return hub.create_commit(config.name, operations, commit_message=message, revision=config.revision)

    try:
        patiently(lambda: hub.create_repo(config.name, exist_ok=True, **visibility), say)
        if config.private and patiently(lambda: hub.model_info(config.name), say).private is not True:
            raise UserError(
                f"{config.name}: is not private at the hub, and --private makes only a new repository private; nothing "
                "was sent. Make it private there (Settings), publish under another name, or leave out --private"
            )
        if config.revision != "main":
            patiently(lambda: hub.create_branch(config.name, branch=config.revision, exist_ok=True), say)
        done = patiently(commit, say)
    except hub_errors() as error:
        raise UserError(_refusal(config.name, error)) from None
    try:
        arrived = patiently(listed, say)
    except hub_errors() as error:
        raise UserError(
            f"{_refusal(config.name, error)}. It is published ({done.commit_url}), but whether all of it arrived whole "
            "is not known; push again"
        ) from None
    _check_arrived(config.name, files, arrived)
    say(f"published: {done.commit_url}")
    return {"name": config.name, "url": str(done.commit_url), "commit": done.oid, "files": sorted(files)}


def _stale(files: dict[str, Path], listed: Collection[str]) -> set[str]:
    """Files there that would be read as parts of this model, and are not."""
    return {name for name in listed if name not in files and any(fnmatch.fnmatchcase(name, part) for part in HUB_FILES)}


def _check_arrived(name: str, files: dict[str, Path], listed: dict[str, Any]) -> None:
    """Compare what the hub says it holds with what was sent.

    Raises:
        UserError: a file is missing there, or is another.
    """
    for file, path in files.items():
        found = listed.get(file)
        if found is None:
            raise UserError(f"{name}: {file} did not arrive at the hub; push again")
        sha256, git_sha1 = checksums(path)
        large = getattr(found, "lfs", None)
        theirs, ours = (large.sha256, sha256) if large else (found.blob_id, git_sha1)
        if theirs is None or theirs == ours:
            continue
        # A large file is kept under the checksum that it was announced with, and one that is there is not sent again.
        remedy = "delete it there (Settings, List LFS files), else it is not sent anew, and push again"
        raise UserError(
            f"{name}: {file} arrived damaged at the hub: its checksum is {theirs[:12]}..., "
            f"expected {ours[:12]}...; {remedy if large else 'push again'}"
        )


def _refusal(name: str, error: BaseException) -> str:
    """Why the hub took it not, in one line."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of a file that was not sent
        return _refusal(name, error.__cause__)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{name}: the hub lets only its owner publish there; log in with `hf auth login`, or set HF_TOKEN"
    of_the_line = isinstance(error, OSError | http_error()) and not is_unreadable(error)
    if isinstance(error, errors.HfHubHTTPError) or not of_the_line:
        return hub_failure(name, error, "model", "Expected owner/name")
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: a file cannot be read ({error.strerror})"
    if passes(error):
        return f"{name}: the connection to the hub was cut ({named(error)})"
    return f"{name}: the hub cannot be reached ({named(error)})"
