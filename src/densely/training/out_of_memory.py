"""Memory that ran out, told in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from densely.errors import DenselyError


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was no memory; on the CPU, PyTorch has no exception of its own for it."""
    return isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error)) is not None


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
        if not ran_out(error):
            raise
        asked = re.search(r"tried to allocate (\d[\d.]* ?\w+)", str(error), re.IGNORECASE)
        more = f": {asked[1]} more were asked for" if asked else ""
        raise DenselyError(
            f"Out of memory in a step of {batch_size} images{more}. Lower --batch-size; --accumulate makes one step of "
            "several smaller batches."
        ) from error
