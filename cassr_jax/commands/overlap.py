"""Work on the items of a stream in other threads, a few items ahead of whoever takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def overlapped(function: Callable[[T], Made], items: Iterable[T], *, ahead: int, threads: int = 1) -> Iterator[Made]:
    """`function` of every item, in order, computed in other threads.

    Items are taken in the caller's thread, at most `ahead` of them before the first of their results is taken. What was
    begun is finished, whatever ends the stream.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
