"""Checks before a run continues: whether it is the same run, and which settings have changed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.config import SPEED, DataConfig
from cassr_jax.errors import InputError
from cassr_jax.files import Json
from cassr_jax.printing import say
from cassr_jax.training.processes import flat

Account = Json
"""A checkpoint's description of its run, in JSON's own types.

`config` is the configuration, `frozen` the `origins` of the weights that are not in the checkpoint, and `contents` the
fingerprint of the training data.
"""

CONTENTS = "data.contents"
STREAM = ("seed", "activation", *(f"data.{f.name}" for f in fields(DataConfig) if f.name not in SPEED), CONTENTS)
"""The fields that decide which examples a run meets, and in which order."""

_DEFAULTS = flat(to_json(TrainConfig("vae", DataConfig())))


@dataclass(frozen=True)
class Change:
    """A field that has changed."""

    field: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.field} from {self.before!r} to {self.after!r}"

    @property
    def permission(self) -> str | None:
        """The name under which the change must be allowed; None if it needs no permission."""
        return next((name for name in STREAM if f"{self.field}.".startswith(f"{name}.")), None)


def check_permissions(allowed: Sequence[str]) -> None:
    """Checks the names given to --allow-change.

    Raises:
        InputError: a name needs no permission or does not exist.
    """
    if unknown := [name for name in allowed if name not in STREAM]:
        raise InputError(f"--allow-change: found {unknown[0]!r}, expected some of {', '.join(STREAM)}")


def check_same_run(where: str, before: Account, *, now: Account) -> None:
    """Refuse a checkpoint of another stage, of other networks, or on other frozen weights.

    Raises:
        InputError: the checkpoint, named by `where`, is of such a run.
    """
    for name in ("stage", "new"):
        found, expected = (account.get("config", {}).get(name) for account in (before, now))
        if found != expected:
            raise InputError(f"{where} is of a run whose {name} is {found!r}, expected {expected!r}, or another folder")
    trained_on, given = before.get("frozen", {}), now.get("frozen", {})
    for kind in sorted(trained_on.keys() | given):
        found, expected = given.get(kind), trained_on.get(kind)
        if (found or {}).get("sha256") != (expected or {}).get("sha256"):
            raise InputError(
                f"{where} was trained on the {kind} {_described(expected)}, found {_described(found)}; give it those "
                "weights, or another folder"
            )


def changes_between(before: Account, now: Account) -> list[Change]:
    """The fields of the configuration that differ, and the data's contents if they do."""
    old, new = (flat(account["config"]) | {CONTENTS: account.get("contents")} for account in (before, now))
    old = completed(old, new)
    return [Change(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]


def completed(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """Flat settings of a run, with the defaults of those fields that an older version of the program did not have."""
    return {name: value for name, value in _DEFAULTS.items() if name in now} | dict(before)


def check_stream(where: str, changes: Iterable[Change], allowed: Sequence[str]) -> None:
    """Refuse changes that would alter the examples of the run.

    Raises:
        InputError: such a change is not among `allowed`; the message names it.
    """
    refused = [change for change in changes if change.permission not in (None, *allowed)]
    if refused:
        names = dict.fromkeys(str(change.permission) for change in refused)
        raise InputError(
            f"{where} was trained on another stream of examples: {', '.join(map(str, refused))}; expected it as it "
            f"was, or --allow-change {' '.join(names)}"
        )


def log_changes(file: Path, step: int, changes: Sequence[Change]) -> None:
    """Add a line for each change to `file`, and print it."""
    if not changes:
        return
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [json.dumps({"step": step, "time": time} | asdict(change)) + "\n" for change in changes]
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(lines)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error
    for change in changes:
        say(f"changed at step {step}: {change}")


def _described(origin: Mapping[str, str] | None) -> str:
    return "none" if origin is None else f"{origin['source']} (sha256 {origin['sha256'][:12]})"
