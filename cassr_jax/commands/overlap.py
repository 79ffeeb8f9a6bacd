"""Work on the items of a stream in other threads, a few items ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def overlapped(function: Callable[[T], Made], items: Iterable[T], *, ahead: int, threads: int = 1) -> Iterator[Made]:
    """Applies `function` to every item in other threads, and yields the results in order.

    Items are taken in the caller's thread, at most `ahead` more of them than results. Work that has begun is finished
    before an exception ends the stream.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
