"""The noise schedule of a U-Net: it comes with the weights, and a configuration may not contradict them."""

from pathlib import Path
from typing import Any

from cassr_jax.diffusion.schedule import NOISE_NOT_OFFERED, TRAINED, Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import read_json, write_json
from cassr_jax.kinds import UNET_FILES
from cassr_jax.weights.files import read_tensors
from cassr_jax.weights.hub import SCHEDULER

_PIPELINE = "model_index.json"  # marks the folder of a whole pipeline
_NOISE = ("_class_name", *TRAINED, *NOISE_NOT_OFFERED)  # of the fields of `scheduler_config.json`


def agreed(configured: Schedule | None, unet: str | None, where: str) -> Schedule:
    """The schedule to use: the configured one, else that of the U-Net's weights, else Stable Diffusion 1.5's.

    How the timesteps are spaced, and where DDIM ends, is the configuration's to choose. On which noise a network was
    trained, and what it predicts, is not.

    Args:
        configured: None leaves it to the weights.
        unet: a folder, a file or a hub id; None where the U-Net is new.
        where: names the configuration in messages.

    Raises:
        InputError: the weights were trained otherwise than the configuration says, or by a schedule not offered here.
    """
    found = None if unet is None else _described(unet)
    if found is None:
        return configured or Schedule()
    fields, source = found
    if configured is None:
        return Schedule.from_diffusers(fields, source)
    noise = {name: value for name, value in fields.items() if name in _NOISE}
    trained = Schedule.from_diffusers(noise | {"clip_sample": False}, source)
    for name in TRAINED:
        ours, theirs = getattr(configured, name), getattr(trained, name)
        if ours != theirs:
            raise InputError(
                f"{where}: schedule.{name} is {ours!r}, but {theirs!r} in {source}, which lies with the weights of the "
                f"unet {unet}; expected the same, or no schedule, which takes the weights' own"
            )
    return configured


def write_schedule(folder: Path, schedule: Schedule) -> None:
    """Write the schedule into the folder that holds a `unet`, where `agreed` and torch diffusers find it."""
    write_json(folder / SCHEDULER, schedule.to_diffusers())


def scheduler_file(unet: str) -> Path | None:
    """The `scheduler_config.json` that belongs to a U-Net on this disk: in the folder that holds the U-Net's own, or
    beside a single file in the folder of a pipeline; None where there is none."""
    path = Path(unet)
    folders = [path.parent] if path.is_file() else [path, *(path / name for name in UNET_FILES.folders)]
    homes = [folder.parent for folder in folders if UNET_FILES.config.describes(folder / "config.json")]
    homes += [folder for folder in folders if (folder / _PIPELINE).is_file()]
    return next((home / SCHEDULER for home in homes if (home / SCHEDULER).is_file()), None)


def _described(unet: str) -> tuple[dict[str, Any], str] | None:
    """The fields of the U-Net's `scheduler_config.json`, or those that marks in a single file stand for, and what
    holds them."""
    path = Path(unet)
    if not path.exists():
        path = UNET_FILES.locate(unet)
    file = scheduler_file(str(path))
    if file is not None:
        return read_json(file), str(file)
    marks = {"v_pred", "ztsnr"} & set(read_tensors(path)) if path.is_file() else set()
    if not marks:
        return None
    schedule = Schedule(
        prediction_type="v_prediction",
        rescale_betas_zero_snr="ztsnr" in marks,
        timestep_spacing="trailing" if "ztsnr" in marks else "leading",
    )
    return schedule.to_diffusers(), f"the mark {' and '.join(sorted(marks))} in {path}"
