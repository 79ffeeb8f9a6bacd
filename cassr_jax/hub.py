"""Upload a cascade to the Hugging Face Hub.

    python -m cassr_jax.commands.bundle --config runs/sd15_cassr --output my_cascade --licence openrail
    python -m cassr_jax.hub push my_cascade owner/name --private

The folder is one that `python -m cassr_jax.commands.bundle` has written, with a `cassr.json` and a model card,
README.md. Every part must lie in the folder, on the hub or in a package. The hub's own settings apply: log in with
`hf auth login`, or set HF_TOKEN. Afterwards `cassr_jax.load("owner/name")` loads the cascade from there.
"""

import argparse
import sys
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from cassr_jax.commands.card import CARD
from cassr_jax.commands.options import local_path
from cassr_jax.commands.running import command
from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file
from cassr_jax.loading import CASCADE_FILE, read_cascade
from cassr_jax.printing import say
from cassr_jax.weights.hub import SCHEDULER, files_of, is_hub_id, is_inside, is_repository
from cassr_jax.weights.rrdbnet import PUBLISHED
from cassr_jax.weights.transfer import hub_errors, reason_of


def push(folder: Path, repository: str, private: bool, message: str) -> str:
    """Upload the files of a cascade in one commit; returns the address of what the hub then holds.

    A repository that exists gets a new commit, and keeps its other files.

    Raises:
        InputError: the folder is no whole cascade, or the hub refuses or cannot be reached.
    """
    if not is_repository(repository):
        raise InputError(f"{repository}: expected the name of a repository, owner/name")
    wanted, elsewhere = parts(folder)
    _check_public(folder, elsewhere)
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():  # its bars would fill a log
        disable_progress_bars()
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=wanted, commit_message=message
        )
    except hub_errors() as error:
        raise InputError(
            f"{repository}: cannot be uploaded ({reason_of(error)}), expected a hub that takes it"
        ) from error
    return str(commit.commit_url)


def parts(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The files of a cascade to upload, as patterns; and what it takes from the hub, each with its kind.

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
    wanted, elsewhere = [CASCADE_FILE, CARD, SCHEDULER], []
    named = [*config.components.items(), *(("LoRA", source) for source in config.loras)]
    for kind, source in named:
        if source in PUBLISHED:
            continue
        path = Path(source)
        if is_inside(source) and exists(folder / path):
            of_folder = "*" if path == Path() else f"{escape(path.as_posix())}/*"
            wanted += map(escape, files_of(path)) if is_file(folder / path) else [of_folder]
        elif not is_hub_id(source):
            raise InputError(
                f"{folder}: its {kind} is {source}, expected a part within the folder, on the hub or in a package; "
                "python -m cassr_jax.commands.bundle gathers them"
            )
        else:
            elsewhere.append((kind, source))
    return wanted, elsewhere


def _check_public(folder: Path, elsewhere: Sequence[tuple[str, str]]) -> None:
    """Checks that everybody can fetch these parts, each of a kind, from other repositories of the hub.

    Raises:
        InputError: a repository is not there or not public, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    for kind, source in elsewhere:
        try:
            HfApi(token=False).model_info(source.partition(":")[0])
        except hub_errors() as error:
            raise InputError(
                f"{folder}: its {kind} is {source}, which is neither within the folder nor in a public repository of "
                f"the hub ({reason_of(error)}); python -m cassr_jax.commands.bundle gathers the parts"
            ) from error


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
