"""Several processes that train one model: who they are, how work is shared out, and what they say to each other.

Each process computes its share of every batch; the gradients are summed over all of them, divided by the texts of the
whole batch, so that every process takes the same step with the same weights (synchronous data parallelism: Li et al.
2020, arXiv 2006.15704). The process of rank 0 leads: it alone reads the texts, judges and writes.

torchrun starts the processes, tells each its place by environment variables, and starts all of them again when one is
lost. They talk by gloo over TCP, and by NCCL where tensors lie on GPUs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch import distributed as collective

from bertwright import runs
from bertwright.data.ragged import Ragged
from bertwright.errors import TrainingError
from bertwright.parent import LAUNCHED_END

# A process that dies is noticed at once. A machine that falls silent is not: it is waited for so long. The leading
# process may tokenise for long before it says anything.
_PATIENCE, _PATIENCE_FOR_WORDS = timedelta(minutes=30), timedelta(hours=12)
# Of an array, sent to another host at once.
_CHUNK_BYTES = 64 << 20


class ProcessLost(TrainingError):
    """Another process of the training is gone: torchrun starts all of them again."""


class Group(Protocol):
    """The processes of one training.

    Attributes:
        rank: the place of this process, from 0.
        size: how many there are.
        leads: whether this is the one that reads, judges and writes.
    """

    rank: int
    size: int
    leads: bool

    def exchange(self, numbers: np.ndarray) -> np.ndarray:
        """(processes, numbers) int64: what each process gave, (numbers,) int64."""
        ...

    def sum_(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of ``tensor``, the same bits in each."""
        ...

    def gather(self, tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensor of each process, whose first dimension is its count."""
        ...

    def broadcast(self, value: Any = None) -> Any:
        """The leading process' value, in all of them: what JSON can hold, and tensors and arrays within it.

        Elsewhere tuples are lists, and tensors and arrays are tensors on the CPU.
        """
        ...


class Alone:
    """A single process: nothing to share, nobody to talk to."""

    rank, size, num_hosts, leads = 0, 1, 1, True

    def exchange(self, numbers: np.ndarray) -> np.ndarray:
        return numbers[None]

    def sum_(self, tensor: Tensor) -> None:
        pass

    def gather(self, tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
        return [tensor]

    def broadcast(self, value: Any = None) -> Any:
        return value

    def note_begun(self) -> None:
        pass

    def has_begun(self) -> bool:
        return False


ALONE = Alone()


class AloneOfTorchrun(Alone):
    """A single process that torchrun started, and may start again."""

    def __init__(self, store: collective.Store) -> None:
        self._store = store

    def note_begun(self) -> None:
        _note_begun(self._store)

    def has_begun(self) -> bool:
        return _has_begun(self._store)


class Together:
    """The processes that torchrun started, this one being one of them.

    Attributes:
        local_rank: the place among the processes of this host.
        num_hosts: on how many hosts all processes are.
        busy: whether the other processes are at something, and do not wait for a word of the leading one.
    """

    def __init__(self, store: collective.Store) -> None:
        self._store = store
        self.rank, self.size = collective.get_rank(), collective.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.leads = self.rank == 0
        self.busy = False
        with _peers(self):
            places = self.exchange(np.array([self.rank - self.local_rank]))[:, 0].tolist()
            self._host = places[self.rank]
            # Whether a process of this host reads the texts from a file: all do but the leading one.
            self._is_read = not self.leads or places.count(self._host) > 1
            self._hosts = sorted(set(places))
            self.num_hosts = len(self._hosts)
            self._words = collective.new_group(backend="gloo", timeout=_PATIENCE_FOR_WORDS)
            # Those that bring the data to their hosts.
            self._carriers = collective.new_group(self._hosts, backend="gloo") if len(self._hosts) > 1 else None

    def exchange(self, numbers: np.ndarray) -> np.ndarray:
        mine = torch.from_numpy(np.ascontiguousarray(numbers, np.int64))
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _peers(self):
            collective.all_gather(found, mine)
        return torch.stack(found).numpy()

    def sum_(self, tensor: Tensor) -> None:
        with _peers(self):
            collective.all_reduce(tensor)

    def gather(self, tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
        # All send as much as the one with most: gloo knows no other way.
        most = max(counts)
        padded = tensor.new_zeros(most, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in range(self.size)]
        with _peers(self):
            collective.all_gather(found, padded)
        return [each[:count] for each, count in zip(found, counts, strict=True)]

    def gather_text(self, text: str) -> list[str]:
        """The text of each process."""
        mine = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        counts = self.exchange(np.array([len(mine)]))[:, 0].tolist()
        return [bytes(each.numpy()).decode() for each in self.gather(mine, counts)]

    def broadcast(self, value: Any = None) -> Any:
        return self._broadcast(value, None)

    def _broadcast(self, value: Any, among: Any) -> Any:
        """``broadcast`` by the processes of a group of torch's, all of ours.

        No pickles: whoever could put one on the line would have its code run.
        """
        tensors: list[Tensor] = []
        text = json.dumps(_without_tensors(value, tensors)).encode() if self.leads else b""
        with _peers(self):
            size = torch.tensor([len(text)])
            collective.broadcast(size, 0, group=among)
            held = torch.empty(int(size), dtype=torch.uint8)
            if self.leads:
                held = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            collective.broadcast(held, 0, group=among)
            if self.leads:
                for tensor in tensors:
                    if tensor.numel():
                        collective.broadcast(tensor.reshape(-1).view(torch.uint8), 0, group=among)
                return value

            def receive(dtype: str, shape: list[int]) -> Tensor:
                found = announced_tensor(dtype, shape)
                if found.numel():
                    collective.broadcast(found.reshape(-1).view(torch.uint8), 0, group=among)
                return found

            return received(bytes(held.numpy()), receive)

    # --- what outlives an attempt -------------------------------------------------------------------------------

    def note_begun(self) -> None:
        """Note that the run's folder is this training's, for the processes that are started where these are lost."""
        if self.leads:
            with _peers(self):
                _note_begun(self._store)

    def has_begun(self) -> bool:
        """Whether an earlier attempt of the same torchrun noted it, and torchrun kept it."""
        with _peers(self):
            return _has_begun(self._store)

    # --- the leading process' words -----------------------------------------------------------------------------

    def tell(self, *words: Any) -> None:
        """Let the other processes, which ``hear``, do something that needs nobody else."""
        self._broadcast(words, self._words)

    @contextlib.contextmanager
    def doing(self, *words: Any) -> Iterator[None]:
        """Let the other processes do what this one does within it."""
        self.tell(*words)
        self.busy = True
        yield
        self.busy = False  # else they are stuck in the midst of it

    def hear(self) -> list[Any]:
        """What the leading process says next."""
        return self._broadcast(None, self._words)

    # --- token ids ----------------------------------------------------------------------------------------------

    def share_texts(self, texts: dict[str, Ragged] | None) -> dict[str, Ragged]:
        """The leading process' token ids, in all processes: one copy on each host, in a file that all of it map.

        The files have no names any more by the time this returns: nothing is left of them, however a process ends.

        Raises:
            TrainingError: there is no room for them.
        """
        try:
            return self._share_texts(texts)
        except OSError as error:
            raise TrainingError(
                f"process {self.rank + 1} of {self.size}: the token ids cannot be kept in {tempfile.gettempdir()} "
                f"({error.strerror or error}); TMPDIR on that machine names another folder, with room for them"
            ) from error

    def _share_texts(self, texts: dict[str, Ragged] | None) -> dict[str, Ragged]:
        with tempfile.TemporaryDirectory(prefix="bertwright-") as own:
            folder = Path(self.gather_text(own)[self._host])
            layout = self.broadcast(None if texts is None else {name: _layout(each) for name, each in texts.items()})
            for name, parts in layout.items():
                for field, (dtype, shape) in parts["arrays"].items():
                    source = None if texts is None else getattr(texts[name], field)
                    if self.rank in self._hosts:
                        with open(folder / f"{name}.{field}.npy" if self._is_read else os.devnull, "wb") as file:
                            self._carry(file, source, np.dtype(dtype), tuple(shape))
            self.exchange(np.zeros(1, np.int64))  # all is there
            found = texts or {
                name: Ragged(
                    num_truncated=parts["num_truncated"],
                    **{field: np.load(folder / f"{name}.{field}.npy", mmap_mode="r") for field in parts["arrays"]},
                )
                for name, parts in layout.items()
            }
            self.exchange(np.zeros(1, np.int64))  # all have it open
        return found

    def _carry(self, file: IO[bytes], source: np.ndarray | None, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Write an array of the leading process to a file of this host."""
        size = int(np.prod(shape, dtype=np.int64))
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        step = max(1, _CHUNK_BYTES // dtype.itemsize)
        for first in range(0, size, step):
            count = min(step, size - first)
            piece = np.empty(count, dtype) if source is None else np.ascontiguousarray(source[first : first + count])
            if self._carriers is not None:
                sent = torch.from_numpy(piece.view(np.uint8))
                with _peers(self):
                    collective.broadcast(sent, 0, group=self._carriers)
            file.write(piece.data)


_BEGUN = "bertwright/begun"


def _note_begun(store: collective.Store) -> None:
    store.set(_BEGUN, "1")


def _has_begun(store: collective.Store) -> bool:
    return bool(store.check([_BEGUN]))


# Of the tensors that are sent, by the names that they are sent under.
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)
}
_TENSOR = "$tensor"


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """``value`` as JSON can hold it: with types and shapes in place of its tensors, which are put into ``tensors``."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        tensors.append(value.detach().to("cpu").contiguous())
        return {_TENSOR: [str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, dict):
        return {name: _without_tensors(each, tensors) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(each, tensors) for each in value]
    return value


def announced_tensor(dtype: str, shape: list[int]) -> Tensor:
    """An empty tensor on the CPU, for one that is sent next.

    Raises:
        TypeError, ValueError: it is none that is ever sent.
    """
    if not isinstance(dtype, str) or dtype not in _DTYPES or not isinstance(shape, list):
        raise ValueError("it announces no tensor")
    try:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    except RuntimeError as error:  # sizes below 0, or more than there is memory for
        raise ValueError(_reason(error)) from None


def received(text: bytes, receive: Callable[[str, list[int]], Tensor]) -> Any:
    """What a message says; ``receive`` takes in each tensor that it announces, by its type and shape.

    Raises:
        ProcessLost: the leading process never sends such a message.
    """
    try:
        return _with_tensors(json.loads(text), receive)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProcessLost(
            f"another process of the training sent what cannot be read ({str(error)[:100]}); is every process of the "
            "same version of bertwright?"
        ) from None


def _with_tensors(value: Any, receive: Callable[[str, list[int]], Tensor]) -> Any:
    """What ``_without_tensors`` gave, with its tensors, received in the same order."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return receive(*value[_TENSOR])
        return {name: _with_tensors(each, receive) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_tensors(each, receive) for each in value]
    return value


def _layout(texts: Ragged) -> dict[str, Any]:
    fields = ("ids", "starts", "second_starts", "window_starts", "places")
    arrays = {field: getattr(texts, field) for field in fields}
    return {
        "num_truncated": texts.num_truncated,
        "arrays": {name: (each.dtype.str, each.shape) for name, each in arrays.items() if each is not None},
    }


@contextlib.contextmanager
def _peers(group: Together) -> Iterator[None]:
    """What torch says when another process is gone, in words of ours."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            f"process {group.rank + 1} of {group.size}: the other processes of the training cannot be reached "
            f"({_reason(error)})"
        ) from error


def _reason(error: RuntimeError) -> str:
    """What torch says, without the place in its sources."""
    return re.sub(r"^\[[^\]]*\] *", "", str(error).splitlines()[0])[:200]


def is_launched() -> bool:
    """Whether ``--num-processes``, and not the user, started torchrun."""
    return LAUNCHED_END in os.environ


def is_end_told() -> bool:
    """Whether a process has told ``--num-processes`` how the training ended: then nothing need be started again."""
    path = os.environ.get(LAUNCHED_END)
    return path is not None and Path(path).exists()


def tell_launcher(end: dict[str, Any]) -> bool:
    """Whether ``--num-processes``, and not the user, started torchrun; then it is told how the training ended."""
    path = os.environ.get(LAUNCHED_END)
    if path is not None:
        with contextlib.suppress(FileNotFoundError):  # it is gone, and its folder
            runs.write_json(Path(path), end)
    return path is not None


@dataclass(frozen=True)
class Place:
    """What torchrun says of this process.

    Attributes:
        size: processes of the training.
        restarts: how often all processes were started again; each host has a count of its own.
        one_store: whether torchrun keeps one store for all attempts, or each has a new one.
    """

    size: int
    restarts: int
    one_store: bool


def place() -> Place | None:
    """Where torchrun put this process; None: it was not started by torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return Place(
        int(os.environ["WORLD_SIZE"]),
        int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


@contextlib.contextmanager
def joined() -> Iterator[Alone | Together]:
    """The group that this process is of: those that torchrun started, or itself alone."""
    here = place()
    if here is None or here.size == 1:
        yield ALONE if here is None or not here.one_store else AloneOfTorchrun(_rendezvous()[0])
        return
    backend = "gloo"
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = _rendezvous()
    # Where one store is kept, what earlier attempts left in it leads astray. A process that is lost ends all of them,
    # so that the hosts count alike.
    own = collective.PrefixStore(f"bertwright/{here.restarts if here.one_store else 0}", store)
    with _finding():
        collective.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Together(store)
    finally:
        with contextlib.suppress(RuntimeError):
            collective.destroy_process_group()


def _rendezvous() -> tuple[collective.Store, int, int]:
    """The store that torchrun's processes meet at, the rank of this one, and how many there are."""
    with _finding():
        store, rank, size = next(collective.rendezvous("env://", timeout=_PATIENCE))
        return store, rank, size


@contextlib.contextmanager
def _finding() -> Iterator[None]:
    """What torch says where processes do not find each other, in words of ours."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"the processes of the training did not find each other ({_reason(error)}). Are the "
            "address and the port that torchrun was given reachable from every host?"
        ) from error


def shares(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Places in ``lengths`` (texts,) for each of ``size`` processes, in order: all have about as many tokens.

    Longest first, to and fro: the process that got the longer text of one round gets the shorter one of the next.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    turn = np.arange(len(order))
    there, back = turn % (2 * size), 2 * size - 1 - turn % (2 * size)
    owner = np.minimum(there, back)
    return [np.sort(order[owner == rank]) for rank in range(size)]


def own_share(group: Group, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of the rows of a batch, those that this process computes; ``lengths`` (texts,) are those of all texts."""
    return rows if group.size == 1 else rows[shares(lengths[rows], group.size)[group.rank]]


def in_shares(group: Group, lengths: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(texts, width) float32 in all processes: what ``compute`` gives for rows, each process computing its share.

    ``compute`` takes places in ``lengths`` (texts,) and gives (places, width).
    """
    if group.size == 1:
        return compute(np.arange(len(lengths)))
    places = shares(lengths, group.size)
    mine = torch.from_numpy(np.ascontiguousarray(compute(places[group.rank])))
    parts = group.gather(mine, [len(each) for each in places])
    whole = np.empty((len(lengths), mine.shape[1]), np.float32)
    for rows, part in zip(places, parts, strict=True):
        whole[rows] = part.numpy()
    return whole


class SummedGradients:
    """Gradients summed over processes: end to end in one float32 tensor, which is made once."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)

    def of(self, group: Group, gradients: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """The sums of ``gradients``, (a weight, its gradient here, if there is one), as views that the next call fills.

        Every process gives the same weights in the same order.
        """
        size = sum(weight.numel() for weight, _ in gradients)
        if not size:
            return []
        if len(self._flat) != size:
            self._flat = torch.empty(size, device=gradients[0][0].device)
        views, first = [], 0
        for weight, gradient in gradients:
            view = self._flat[first : first + weight.numel()].view(weight.shape)
            first += weight.numel()
            if gradient is None:
                view.zero_()
            else:
                view.copy_(gradient)
            views.append(view)
        group.sum_(self._flat)
        return views
