"""One damaged file, one report: Orbax's other readers, which end after the failing one, print a traceback each."""

import logging
import sys
from functools import cache


@cache
def quieten_readers() -> None:
    """From now on what is left of a failed read ends in silence; whoever asked for it was told why it failed."""
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
