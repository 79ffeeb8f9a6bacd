"""What every installed program can tell of itself: its name, its version with the devices found, and completions."""

import argparse
import sys
from pathlib import Path
from platform import python_version
from typing import Any

import shtab

from cassr_jax.compiled import version_of


def called(script: str) -> str:
    """The name by which the program was started: `cassr-sample` and its like, or else the script's."""
    name = Path(sys.argv[0]).stem
    return name if name.startswith("cassr-") else script


def command_line(script: str) -> str:
    """What a user types to start the program again."""
    name = called(script)
    return f"python {name}" if name.endswith(".py") else name


def add_about(parser: argparse.ArgumentParser, *paths: str) -> None:
    """Add --version and --print-completion to a parser.

    Args:
        paths: the arguments whose values are files or folders, which shells complete.
    """
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the versions of the program and of JAX, and JAX's devices"
    )
    shtab.add_argument_to(parser, help="print a script with which this shell completes the program's options")
    for action in parser._actions:
        if action.dest in paths:
            vars(action)["complete"] = shtab.FILE


def versions() -> str:
    """The versions of this program, Python, JAX and Flax, and the devices of every back end that JAX finds."""
    packages = ", ".join(f"{package} {version_of(package)}" for package in ("jax", "jaxlib", "flax"))
    return f"cassr-jax {version_of('cassr-jax')} (Python {python_version()}, {packages})\n{_devices()}"


def _devices() -> str:
    from jax.extend.backend import backends

    try:
        clients = backends()
    except RuntimeError as error:  # the environment asks for a back end that is not there
        return f"back ends: none ({error})"
    found = [f"{name}: {len(client.devices())} x {client.devices()[0].device_kind}" for name, client in clients.items()]
    return "\n".join(["back ends:", *(f"  {line}" for line in found)])


class _Version(argparse.Action):
    """Prints the versions and ends the program; JAX is imported only now."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **settings: Any) -> None:
        sys.stdout.write(f"{versions()}\n")
        parser.exit()
