"""Upload a cascade to the Hugging Face Hub.

    python -m cassr_jax.commands.bundle --config runs/sd15_cassr --output my_cascade --licence openrail
    python -m cassr_jax.hub push my_cascade owner/name --private

The folder is one that `python -m cassr_jax.commands.bundle` has written, with a `cassr.json` and a model card,
README.md. Every part must lie in the folder, on the hub or in a package. The hub's own settings apply: log in with
`hf auth login`, or set HF_TOKEN. Afterwards `cassr_jax.load("owner/name")` loads the cascade from there.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path

from cassr_jax.commands.card import CARD
from cassr_jax.commands.options import local_path
from cassr_jax.commands.running import command
from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file
from cassr_jax.loading import CASCADE_FILE, read_cascade
from cassr_jax.printing import say
from cassr_jax.weights.hub import SCHEDULER, files_of, hub_errors, is_hub_id, is_repository
from cassr_jax.weights.rrdbnet import PUBLISHED


def push(folder: Path, repository: str, private: bool, message: str) -> str:
    """Upload the files of a cascade in one commit; returns the address of what the hub then holds.

    A repository that exists gets a new commit, and keeps its other files.

    Raises:
        InputError: the folder is no whole cascade, or the hub refuses or cannot be reached.
    """
    if not is_repository(repository):
        raise InputError(f"{repository}: expected the name of a repository, owner/name")
    wanted = parts(folder)
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=wanted, commit_message=message
        )
    except hub_errors() as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{repository}: cannot be uploaded ({reason}), expected a hub that takes it") from error
    return str(commit.commit_url)


def parts(folder: Path) -> list[str]:
    """The files of a cascade to upload, as patterns.

    Raises:
        InputError: the folder holds no cascade or no card, or names a part that nobody else has.
    """
    if not is_file(folder / CASCADE_FILE):
        raise InputError(f"{folder}: holds no {CASCADE_FILE}, expected a folder of python -m cassr_jax.commands.bundle")
    if not is_file(folder / CARD):
        raise InputError(
            f"{folder}: holds no {CARD}, expected a model card; python -m cassr_jax.commands.bundle writes one"
        )
    config, _ = read_cascade(folder)
    wanted = [CASCADE_FILE, CARD, SCHEDULER]
    named = [*config.components.items(), *(("LoRA", source) for source in config.loras)]
    for kind, source in named:
        if source in PUBLISHED:
            continue
        path = Path(source)
        if not path.is_absolute() and ".." not in path.parts and exists(folder / path):
            wanted += _escaped(files_of(path)) if is_file(folder / path) else [f"{_escaped([path.as_posix()])[0]}/*"]
        elif not is_hub_id(source):
            raise InputError(
                f"{folder}: its {kind} is {source}, expected a part within the folder, on the hub or in a package; "
                "python -m cassr_jax.commands.bundle gathers them"
            )
    return wanted


def _escaped(names: Iterable[str]) -> list[str]:
    """Names as patterns that match nothing else."""
    return [escape(name) for name in names]


@command("hub")
def main(argv: Sequence[str] | None = None) -> int:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m cassr_jax.hub", description=__doc__, formatter_class=style)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("push", help="upload a cascade", description=__doc__, formatter_class=style).add_argument
    add("folder", type=local_path, help="the cascade")
    add("repository", help="where it goes, owner/name; created if it does not exist")
    add("--private", action="store_true", help="if it is created, only its owner sees it")
    add("--message", default="Upload a CasSR cascade", help="of the commit (default: %(default)s)")
    arguments = parser.parse_args(argv)
    say(push(arguments.folder, arguments.repository, arguments.private, arguments.message))
    return 0


if __name__ == "__main__":
    sys.exit(main())
