"""The noise schedule of a U-Net, which comes with the weights; a configuration must not contradict it."""

from pathlib import Path

from cassr_jax.diffusion.schedule import NOISE_NOT_OFFERED, TRAINED, Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file, read_json, write_json
from cassr_jax.kinds import UNET_FILES
from cassr_jax.weights.files import read_tensors
from cassr_jax.weights.hub import PIPELINE, SCHEDULER

_NOISE = ("_class_name", *TRAINED, *NOISE_NOT_OFFERED)  # the fields of `scheduler_config.json` that fix the noise


def agreed(configured: Schedule | None, unet: str | None, where: str) -> Schedule:
    """The schedule to use: the configured one, else the one of the U-Net's weights, else Stable Diffusion 1.5's.

    A configuration may choose the spacing of the timesteps and where DDIM ends. It may not change the noise on which a
    network was trained, nor what the network predicts.

    Args:
        configured: the configuration's schedule; None leaves it to the weights.
        unet: a folder, a file or a hub id; None for a new U-Net.
        where: the configuration's name in messages.

    Raises:
        InputError: the weights were trained with another schedule than the configured one, or with one that this
            program does not offer.
    """
    found = None if unet is None else described(unet)
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
    """Write the schedule into the folder that holds a `unet` folder, where `agreed` and torch diffusers find it."""
    write_json(folder / SCHEDULER, schedule.to_diffusers())


def scheduler_file(unet: str) -> Path | None:
    """The `scheduler_config.json` of a U-Net on this disk; None if it has none.

    It lies in the folder that holds the U-Net's folder, or beside a single file in a pipeline's folder.
    """
    path = Path(unet)
    folders = [path.parent] if is_file(path) else [path, *(path / name for name in UNET_FILES.folders)]
    homes = [folder.parent for folder in folders if UNET_FILES.config.describes(folder / "config.json")]
    homes += [folder for folder in folders if is_file(folder / PIPELINE)]
    return next((home / SCHEDULER for home in homes if is_file(home / SCHEDULER)), None)


def described(unet: str) -> tuple[dict[str, object], str] | None:
    """The fields of the U-Net's `scheduler_config.json`, or those implied by a file's marks, and their source."""
    path = Path(unet)
    if not exists(path):
        path = UNET_FILES.locate(unet)
    file = scheduler_file(str(path))
    if file is not None:
        return read_json(file), str(file)
    marks = {"v_pred", "ztsnr"} & set(read_tensors(path)) if is_file(path) else set()
    if not marks:
        return None
    schedule = Schedule(
        prediction_type="v_prediction",
        rescale_betas_zero_snr="ztsnr" in marks,
        timestep_spacing="trailing" if "ztsnr" in marks else "leading",
    )
    return schedule.to_diffusers(), f"the mark {' and '.join(sorted(marks))} in {path}"
