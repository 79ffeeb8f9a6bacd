"""Python processes whose streams a test holds."""

import os
import subprocess
import sys

# Without a buffer, nothing would be left to complain of at the end.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def start(code: str, **options) -> "subprocess.Popen[str]":
    """A process that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def ends_well_unread(process: "subprocess.Popen[str]") -> bool:
    """Whether a process that waits for a line ends without error or complaint when nobody reads its stdout."""
    process.stdout.close()
    _, complaints = process.communicate("gone\n", timeout=20)
    return (process.returncode, complaints) == (0, "")
