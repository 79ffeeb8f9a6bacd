"""Programs of a cluster that is not there: they write down what they are given, and do a little of it here."""

import os
from pathlib import Path

import train

ROOT = Path(train.__file__).parent
LAUNCH = ROOT / "launch"


def write_command(folder: Path, name: str, body: str) -> None:
    """A program for bash in `folder`, which goes in front of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}", "utf-8")
    file.chmod(0o755)


def environment(folder: Path, **variables: object) -> dict[str, str]:
    """The environment with the programs of `folder` before all others."""
    return (
        os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}"}
        | {name: str(value) for name, value in variables.items()}
    )
