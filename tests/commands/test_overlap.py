"""Streams that are worked on in other threads."""

import threading

import pytest

from cassr_jax.commands.overlap import overlapped


def test_results_come_in_order():
    assert list(overlapped(lambda x: x * x, range(20), ahead=3, threads=4)) == [x * x for x in range(20)]


def test_few_items_are_taken_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = overlapped(str, items(), ahead=3)
    assert next(results) == "0"
    assert taken == [0, 1, 2, 3]
    results.close()


def test_an_item_is_worked_on_while_its_caller_does_something_else():
    """The function of the second item ends only after the caller has the result of the first."""
    go_on = threading.Event()

    def function(number: int) -> bool:
        return number == 0 or go_on.wait(timeout=60)

    results = overlapped(function, range(2), ahead=1)
    assert next(results) is True
    go_on.set()
    assert next(results) is True


def test_what_was_begun_is_finished_whatever_ends_the_stream():
    done = []

    def items():
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(done.append, items(), ahead=5))
    assert done == [0, 1, 2]


def test_an_exception_of_the_function_is_raised_in_its_place():
    results = overlapped(lambda x: 1 / x, [1, 0], ahead=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
