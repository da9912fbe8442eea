"""Training batches as a pure function of the step: what makes an interrupted run resume exactly."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.data.base import Data
from pipeline.training.mixing import Mix, Shares

Batch = tuple[NDArray[np.float32], NDArray[np.int64] | Shares]

_ORDER, _AUGMENT, _MIX = 0, 1, 2  # independent random streams of one seed


class Batches:
    """An endless stream of reshuffled passes over the training split, cut into equal batches.

    Every random number depends on the seed and on the step alone, so there is no generator state to save. Of
    `share` (i, n) only every n-th sample of each batch is read, augmented and mixed, from the i-th on, with random
    numbers of its own.
    """

    def __init__(
        self, data: Data, batch_size: int, seed: int, mix: Mix | None = None, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.data, self.seed, self.mix, self.share = data, seed, mix, share
        self.n = len(data.train)
        self.batch_size = min(batch_size, self.n)

    def __getitem__(self, step: int) -> Batch:
        """Return the augmented batch of a step: inputs `(N, ...)`, and labels `(N,)` or mixed ones `(N, classes)`."""
        x, y = self.data.train[self.indices(step)]
        if self.data.augment is not None:
            x = self.data.augment(x, self._random(_AUGMENT, step))
        return self.mix(x, y, self._random(_MIX, step)) if self.mix else (x, y)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return which samples the batch of a step, or the share of it, is made of."""
        first, every = self.share
        return self._whole(step)[first::every]

    def _random(self, stream: int, step: int) -> np.random.Generator:
        first = self.share[0]
        return np.random.default_rng((self.seed, stream, step, first) if first else (self.seed, stream, step))

    def _whole(self, step: int) -> NDArray[np.int64]:
        number, start = divmod(step * self.batch_size, self.n)
        stop = start + self.batch_size  # at most one pass further, as no batch is larger than a pass
        here = _order(self.seed, number, self.n)[start:stop]
        if stop <= self.n:
            return here
        return np.concatenate([here, _order(self.seed, number + 1, self.n)[: stop - self.n]])

    def stream(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yield the batches of the steps `start` to `stop`, preparing the next while one is in use."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.__getitem__, start)
            for step in range(start, stop):
                batch = following.result()
                if step + 1 < stop:
                    following = pool.submit(self.__getitem__, step + 1)
                yield batch


@lru_cache(maxsize=2)
def _order(seed: int, number: int, n: int) -> NDArray[np.int64]:
    """Return the order of one pass over `n` samples."""
    order = np.random.default_rng((seed, _ORDER, number)).permutation(n)
    order.flags.writeable = False  # every batch of the pass is a view of it
    return order
