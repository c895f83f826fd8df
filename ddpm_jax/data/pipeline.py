"""Batches whose content is a pure function of (seed, step): the position is one integer."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.data.base import Example, Source, evenly_spaced
from ddpm_jax.data.captions import TEXT, EncodeTexts, caption_of
from ddpm_jax.errors import UserError

HostBatch = dict[str, np.ndarray]
# (stacked examples by name, the number of values that pixels of "image" take) -> the batch
Encode = Callable[[Mapping[str, np.ndarray], int], HostBatch]

# grain's index shuffle walks through at least 2^16 places until it meets one below the size:
# 14 us an example for the 1,437 digits, 6 ms for two images. Smaller sources are permuted here.
_SMALL = 2**16


class Batches:
    """Shuffled, endless training batches.

    Example number n = step * batch_size + j, 0 <= j < batch_size, is the (n mod N)-th of epoch
    n // N, and each epoch is a permutation of the N examples that the seed and the epoch alone
    decide. So neither threads, nor processes, nor where a run was resumed change what step k sees.

    Args:
      source: the examples; it may say itself what the mirrored one of an example is, `mirror`.
      batch_size: the global batch, over all processes.
      seed: in [0, 2**32).
      encode: from stacked examples, {"image" or "x0": [b, ...], "label": [b], conditions by name},
        and `source.info.levels` to a batch, such as a codec's `encode_batch`.
      flip: mirror each example left to right with probability 1/2, drawn from (seed, n).
      conditions: what else of each example is read, by name: values and images.
      encode_texts: from the captions of a batch to its tokens, which are "text" of the batch, as
        `captions.encode_texts`, or arrays by name; None leaves captions out. A mirrored image keeps
        its caption.
      process_index: which contiguous block of each global batch this process reads.
      process_count: how many processes share a batch; must divide `batch_size`.

    Raises:
      UserError: an empty source, a bad batch size, seed or process count.

    Example:
      encode = codecs.pixels((8, 8, 1)).encode_batch
      batches = Batches(digits("train"), batch_size=64, seed=0, encode=encode)
      for batch in batches.iterate(start_step=state.step): ...
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        encode: Encode,
        flip: bool = False,
        conditions: Sequence[str] = (),
        encode_texts: EncodeTexts | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        _check(source, batch_size, process_index, process_count)
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed} must be at least 0 and below 2**32")
        self.source = source
        self.batch_size = batch_size
        self._block = _block(batch_size, process_index, process_count)
        self._encode = encode
        self._conditions = conditions
        self._encode_texts = encode_texts
        examples, self._place = _shuffled(source, seed)
        # Behind the endless repetition, so that a flip is drawn for n, again in each epoch.
        mirror = getattr(source, "mirror", _mirrored)
        flipped = functools.partial(_random_flip, mirror=mirror)
        self._examples = examples.random_map(flipped) if flip else examples

    def batch_at(self, step: int) -> HostBatch:
        """The batch of a step: this process's block of it.

        Returns:
          What `encode` makes of it: {"x0": [b, ...], "label": [b]}, the conditions by name
          and, with `encode_texts`, "text": int32 [b, L]; b = batch_size / process_count.
        """
        first = step * self.batch_size
        examples = [self._examples[first + j] for j in self._block]
        stacked = _stacked(examples, self._conditions, self._encode_texts)
        return self._encode(stacked, self.source.info.levels)

    def example_ids(self, step: int) -> list[int]:
        """The places in the source of the examples of a step, of all processes; reads nothing.

        Where the source replaces a broken image, the place is that of the broken one.
        """
        first = step * self.batch_size
        return [self._place(first + j) for j in range(self.batch_size)]

    def iterate(
        self, start_step: int = 0, *, num_threads: int = 2, prefetch: int = 4
    ) -> Iterator[HostBatch]:
        """Yields `batch_at(start_step)`, `batch_at(start_step + 1)`, ... without end.

        Args:
          start_step: the first step.
          num_threads: threads that read ahead; 0 reads in the caller.
          prefetch: how many batches they read ahead.

        Raises:
          UserError: whatever the source raised for that batch, here in the caller.
        """
        return _read_ahead(self.batch_at, start_step, sys.maxsize, num_threads, prefetch)


def evaluation_batches(
    source: Source,
    batch_size: int,
    max_examples: int | None = None,
    *,
    encode: Encode,
    conditions: Sequence[str] = (),
    encode_texts: EncodeTexts | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> Iterator[HostBatch]:
    """Yields the examples once, or some of them, in the source's order, never shuffled nor flipped.

    The last batch is filled up with its last example, where `mask` is False.

    Args:
      source: the examples.
      batch_size: the global batch, over all processes.
      max_examples: so many of them, evenly spaced: the first of a sorted folder would be of one
        class; None: all.
      encode, conditions, encode_texts: as of `Batches`.
      process_index: which contiguous block of each batch this process reads.
      process_count: how many processes share a batch; must divide `batch_size`.
      num_threads: threads that read ahead; 0 reads in the caller.

    Yields:
      What `encode` makes of them, and "mask": bool [b].

    Raises:
      UserError: an empty source, a bad batch size or count, a broken image.
    """
    _check(source, batch_size, process_index, process_count)
    if max_examples is not None and max_examples < 1:
        raise UserError(f"max_examples={max_examples} must be at least 1")
    rows = evenly_spaced(source, len(source) if max_examples is None else max_examples)
    count = len(rows)
    block = _block(batch_size, process_index, process_count)

    def batch_at(number: int) -> HostBatch:
        indices = [number * batch_size + j for j in block]
        examples = [source[rows[min(index, count - 1)]] for index in indices]
        batch = encode(_stacked(examples, conditions, encode_texts), source.info.levels)
        return batch | {"mask": np.array([index < count for index in indices])}

    return _read_ahead(batch_at, 0, -(-count // batch_size), num_threads, prefetch=4)


def _check(source: Source, batch_size: int, process_index: int, process_count: int) -> None:
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size} must be at least 1")
    if batch_size % process_count:
        raise UserError(
            f"data.batch_size={batch_size} is not divisible by the {process_count} processes: "
            f"choose a multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"need 0 <= process_index < process_count, got {process_index=}, {process_count=}"
        )
    if len(source) == 0:
        raise UserError("the data source is empty: choose another split or data.data_dir")


def _block(batch_size: int, process_index: int, process_count: int) -> range:
    size = batch_size // process_count
    return range(process_index * size, (process_index + 1) * size)


def _stacked(
    examples: list[Example], conditions: Sequence[str], encode_texts: EncodeTexts | None
) -> HostBatch:
    # A source of images has "image", and one of anything else "x0".
    content = "x0" if "x0" in examples[0] else "image"
    texts: HostBatch = {}
    if encode_texts is not None:
        encoded = encode_texts([caption_of(example) for example in examples])
        texts = {TEXT: encoded} if isinstance(encoded, np.ndarray) else dict(encoded)
    return {
        content: np.stack([example[content] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
        **{name: np.stack([example[name] for example in examples]) for name in conditions},
        **texts,
    }


def _shuffled(source: Source, seed: int) -> tuple[Any, Callable[[int], int]]:
    """The examples, one permutation of the source after another, and n -> example n's place in it.

    The examples are a grain MapDataset of sys.maxsize; the places are found without reading.
    """
    import grain

    size = len(source)
    if size > _SMALL:

        def shuffled(dataset: Any) -> Any:
            return dataset.seed(seed).shuffle().repeat()

        # Grain's seeds hang on the order of its steps, so places and examples each have their own.
        places = shuffled(grain.MapDataset.range(size))
        return shuffled(grain.MapDataset.source(source)), lambda n: int(places[n])

    @functools.lru_cache(maxsize=32)
    def permutation(epoch: int) -> np.ndarray:
        # Sorted raw bits: unlike Generator.permutation, numpy promises never to change them.
        return np.argsort(np.random.Philox([seed, epoch]).random_raw(size), kind="stable")

    def place(n: int) -> int:
        epoch, place_in_epoch = divmod(n, size)
        return int(permutation(epoch)[place_in_epoch])

    examples = grain.MapDataset.range(sys.maxsize).seed(seed).map(lambda n: source[place(n)])
    return examples, place


def _random_flip(
    example: Example, rng: np.random.Generator, *, mirror: Callable[[Example], Example]
) -> Example:
    return example if rng.random() < 0.5 else mirror(example)


def _mirrored(example: Example) -> Example:
    return {
        name: value[:, ::-1] if np.ndim(value) == 3 else value for name, value in example.items()
    }


def _read_ahead(
    batch_at: Callable[[int], HostBatch], start: int, stop: int, num_threads: int, prefetch: int
) -> Iterator[HostBatch]:
    """Yields batch_at(start), ..., batch_at(stop - 1), read ahead by grain's threads."""
    import grain

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    iterator: Any = iter(grain.MapDataset.range(stop).map(batch_at).to_iter_dataset(options))
    iterator.set_state({"next_index": start})

    def batches() -> Iterator[HostBatch]:
        try:
            yield from iterator
        finally:
            iterator.close()

    return batches()
