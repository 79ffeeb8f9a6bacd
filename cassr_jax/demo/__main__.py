"""A page in the browser on which pictures are restored.

    cassr-demo                              on this machine alone, at http://127.0.0.1:7860
    cassr-demo --config tiny configs/sd15_tile.py --devices 4
    cassr-demo --host 0.0.0.0 --port 8080   for others too

Requests are worked on one after the other; the rest wait. Uploads and results are deleted after an hour. The server
reads no file but uploads, and writes none but results.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from cassr_jax.commands.about import add_about
from cassr_jax.commands.options import number
from cassr_jax.commands.running import command
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.errors import InputError
from cassr_jax.ranges import COUNT, Range

PROGRAM = "cassr-demo"


@command(PROGRAM, seconds_to_stop=3)
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    check_address(arguments.host, arguments.port)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    keep_compiled_functions()
    from cassr_jax.demo.page import make_page
    from cassr_jax.demo.work import Limits, Workshop

    most, pixels = (1_000_000 * count for count in (arguments.max_megabytes, arguments.max_megapixels))
    limits = Limits(most, arguments.max_pictures, pixels, arguments.queue)
    workshop = Workshop(arguments.config, limits, arguments.devices)
    workshop.cascade(arguments.config[0], None)  # so that what is missing is known before anybody comes
    examples = sorted(Path(str(resources.files("cassr_jax") / "examples")).glob("*.jpg"))
    page = make_page(workshop, examples)
    page.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        max_file_size=limits.file_bytes,
        inbrowser=arguments.open,
        share=False,
    )
    return 0


def check_address(host: str, port: int) -> None:
    """Checks that a server can listen there.

    Raises:
        InputError: the port is taken or not allowed, or the host is not this machine.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: {error.strerror or error}, expected a free port here"
        ) from error


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=style)
    add = parser.add_argument
    add("--config", nargs="+", default=["tiny"], help="the presets that are offered, as for sample.py (default: tiny)")
    add(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 lets others come (default: %(default)s)",
    )
    add("--port", type=number(Range(1, 65535, whole=True)), default=7860, help="default: %(default)s")
    add("--devices", type=number(COUNT), help="how many devices share the work (default: all accelerators, or one CPU)")
    add("--max-megabytes", type=number(COUNT), default=40, help="of an uploaded file (default: %(default)s)")
    add("--max-megapixels", type=number(COUNT), default=24, help="of a result (default: %(default)s)")
    add("--max-pictures", type=number(COUNT), default=8, help="in one request (default: %(default)s)")
    add("--queue", type=number(COUNT), default=64, help="requests that may wait (default: %(default)s)")
    add("--open", action="store_true", help="open the page in this machine's browser")
    add_about(parser, "config")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
