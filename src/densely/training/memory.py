"""Memory that ran out, told in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from densely.errors import DenselyError


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn what PyTorch and Python raise where memory runs out into a sentence that says what helps.

    Args:
        batch_size: of the training, which is the first thing to lower.

    Raises:
        DenselyError: in place of the original.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU, PyTorch has no exception of its own for it.
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        asked = re.search(r"tried to allocate (\d[\d.]* ?\w+)", str(error), re.IGNORECASE)
        more = f": {asked[1]} more were asked for" if asked else ""
        raise DenselyError(
            f"Out of memory in a step of {batch_size} images{more}. Lower --batch-size; --accumulate makes one step of "
            "several smaller batches."
        ) from error
