"""`-` for a picture on stdin, and for the result on stdout."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import is_folder
from cassr_jax.imaging.inputs import STREAM

_MOST = 2**31  # bytes on stdin, far more than any picture that is read


def with_streams(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Calls `run`, for which files stand in for stdin and stdout; what it prints on stdout then goes to stderr.

    Args:
        args: `inputs` and `output` may be `-`.

    Returns:
        The exit code of `run`. The result is written to stdout only if that is 0.

    Raises:
        InputError: more than one picture is to go to stdout, or stdin holds too much.
    """
    reads, writes = STREAM in args.inputs, str(args.output) == STREAM
    if not reads and not writes:
        return run(args)
    if writes and (len(args.inputs) > 1 or is_folder(args.inputs[0]) or args.all_frames):
        found = " ".join([*args.inputs, *["--all-frames"] * args.all_frames])
        raise InputError(f"--output {STREAM}: found {found}, expected one picture, whose result goes to stdout")
    with tempfile.TemporaryDirectory(prefix="cassr-") as folder:
        inputs = [str(_read_into(Path(folder, "stdin"))) if given == STREAM else given for given in args.inputs]
        if not writes:
            return run(argparse.Namespace(**{**vars(args), "inputs": inputs}))
        output = Path(folder, "output")
        with contextlib.redirect_stdout(sys.stderr):
            code = run(argparse.Namespace(**{**vars(args), "inputs": inputs, "output": output}))
        if not code and not args.dry_run:
            stem = Path(inputs[0]).stem
            result = next(path for path in sorted(output.iterdir()) if path.stem == stem)
            with result.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return code


def _read_into(file: Path) -> Path:
    with file.open("wb") as copy:
        while part := sys.stdin.buffer.read(2**20):
            copy.write(part)
            if copy.tell() > _MOST:
                raise InputError(f"stdin holds more than {_MOST:,} bytes, expected a picture")
    return file
