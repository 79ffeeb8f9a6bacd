"""The page: what a visitor sees and chooses, as Gradio's blocks."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] - of the extra `demo`
import numpy as np

from cassr_jax.choices import SPEEDS
from cassr_jax.commands.jobs import SUFFIXES
from cassr_jax.demo.work import Done, Request, Update, Workshop
from cassr_jax.errors import InputError
from cassr_jax.first_stage import NAMES
from cassr_jax.imaging.color import COLOR_FIXES

OWN = "the preset's own"
KEPT_SECONDS = 3600  # for which results can be downloaded

ABOUT = """
# CasSR: photographs four times as large

Drop photographs, choose, and press **Restore**. The slider compares the enlarged photograph with the result. The
networks invent detail that was never photographed: the map shows where (yellow: detail that the photograph cannot hold;
red: the result contradicts it).
"""


def make_page(workshop: Workshop, examples: Sequence[Path] = ()) -> gr.Blocks:
    """The page for a workshop.

    Args:
        examples: pictures to try.
    """
    limits = workshop.limits
    with gr.Blocks(title="CasSR", delete_cache=(KEPT_SECONDS, KEPT_SECONDS), analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(
                    file_count="multiple", file_types=["image"], type="filepath", label="photographs", elem_id="files"
                )
                gr.Markdown(
                    f"At most {limits.pictures} files of {limits.file_bytes / 1e6:g} MB, and "
                    f"{limits.result_pixels / 1e6:g} megapixels for each result."
                )
                if examples:
                    gr.Examples([[[str(example)]] for example in examples], [files], label="examples")
                preset = gr.Dropdown(list(workshop.presets), value=workshop.presets[0], label="preset")
                scale = gr.Slider(1, 4, 4, step=0.5, label="times as wide and high")
                with gr.Accordion("More", open=False):
                    activation = gr.Dropdown([OWN, *NAMES], value=OWN, label="first stage")
                    speed = gr.Dropdown([OWN, *SPEEDS], value=OWN, label="speed")
                    steps = gr.Number(0, label=f"steps (0: {OWN})", precision=0, minimum=0, maximum=1000)
                    guidance = gr.Number(0, label=f"guidance scale (0: {OWN})", minimum=0)
                    fidelity = gr.Slider(0, 1, 1, step=0.05, label="fidelity: less invents more")
                    color_fix = gr.Dropdown([OWN, *COLOR_FIXES], value=OWN, label="colours")
                    seed = gr.Number(0, label="seed", precision=0, minimum=0)
                    strip = gr.Dropdown(["keep", "gps", "all"], value="keep", label="leave out metadata")
                    format = gr.Dropdown(list(SUFFIXES), value="png", label="format")
                with gr.Row():
                    start = gr.Button("Restore", variant="primary", elem_id="start")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=2):
                status = gr.Markdown("", elem_id="status")
                slider = gr.ImageSlider(
                    label="before and after", interactive=False, type="numpy", elem_id="slider", max_height=640
                )
                with gr.Row():
                    reference, shown, preview = (
                        gr.Image(label=label, interactive=False, elem_id=name, buttons=["download", "fullscreen"])
                        for label, name in (
                            ("first stage", "reference"),
                            ("what is invented", "invented"),
                            ("preview", "preview"),
                        )
                    )
                results = gr.File(label="results", file_count="multiple", interactive=False, elem_id="results")
        inputs = [files, preset, scale, activation, speed, steps, guidance, fidelity, color_fix, seed, strip, format]
        outputs = [status, slider, reference, shown, preview, results]

        def run(*chosen: Any) -> Iterator[tuple[Any, ...]]:
            yield from answered(workshop, request_of(*chosen))

        job = start.click(run, inputs, outputs, concurrency_limit=1, api_name="restore")
        stop.click(None, None, None, cancels=[job], api_name=False)
    page.queue(max_size=limits.waiting, default_concurrency_limit=1)
    return page


def request_of(
    files: Sequence[str] | None, preset: str, scale: float, activation: str, speed: str, steps: float,
    guidance: float, fidelity: float, color_fix: str, seed: float, strip: str, format: str,
) -> Request:  # fmt: skip
    """What the page's controls ask for, in their order."""

    def chosen(value: str) -> str | None:
        return None if value == OWN else value

    options = {
        "scale": scale,
        "speed": chosen(speed),
        "steps": int(steps) or None,
        "guidance_scale": guidance or None,
        "fidelity": fidelity,
        "color_fix": chosen(color_fix),
        "seed": int(seed or 0),
    }
    return Request(
        [Path(file) for file in files or ()],
        preset,
        chosen(activation),
        format,
        None if strip == "keep" else strip,  # pyright: ignore[reportArgumentType] - checked by the request
        {name: value for name, value in options.items() if value is not None},
    )


def answered(workshop: Workshop, request: Request) -> Iterator[tuple[Any, ...]]:
    """What the page shows while a request is worked on; a visitor's error is a sentence, and ends nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="cassr-"))
    latest: Done | None = None
    try:
        for update in workshop.restore(request, folder):
            fresh = update.done[-1] if update.done and update.done[-1] is not latest else None
            latest = fresh or latest
            yield (status_of(update), *_pictures(fresh), _shown(update.preview), _files(update))
    except InputError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Gradio has copied what it serves


def status_of(update: Update) -> str:
    """The line above the pictures, and a line for each picture that failed."""
    bar = f"{int(100 * update.share)} %: {update.text}"
    return "\n\n".join([bar, *(f"**{fault}**" for fault in update.failed)])


def _pictures(done: Done | None) -> tuple[Any, Any, Any]:
    """The slider's pair, the reference and the map; nothing changes without a new picture."""
    if done is None:
        return gr.skip(), gr.skip(), gr.skip()
    return (done.before, done.after), done.reference, done.invented


def _shown(preview: np.ndarray | None) -> Any:
    return gr.skip() if preview is None else preview


def _files(update: Update) -> Any:
    return [str(done.file) for done in update.done] if update.share == 1 else gr.skip()
