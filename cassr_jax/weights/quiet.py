"""One report for one damaged file: without this, each of Orbax's other readers prints a traceback of its own."""

import logging
import sys
from functools import cache


@cache
def quieten_readers() -> None:
    """Silence the remaining readers of a failed read from now on; its caller has already got the reason."""
    report = sys.unraisablehook

    def report_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if not _of_a_reader(unraisable):
            report(unraisable)

    sys.unraisablehook = report_others
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())


def _of_a_reader(unraisable: "sys.UnraisableHookArgs") -> bool:
    if isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed":
        return True
    return "_read_array" in getattr(unraisable.object, "__qualname__", "")
