"""The model card of a cascade: a README.md that the hub shows, made from the run that trained it."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from cassr_jax.config import CascadeConfig
from cassr_jax.control import control_scheme
from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, read_json
from cassr_jax.loading import trained
from cassr_jax.weights.hub import is_hub_id

CARD = "README.md"
_MARK = "\n<!-- made by cassr-jax: "
_TABLE, _COMPARISON = "table.md", "comparison.json"  # of a report of `cassr_jax.evaluation`


def model_card(
    origin: Path | None,
    folder: Path,
    config: CascadeConfig,
    parameters: Mapping[str, int],
    licence: str | None,
    report: Path | None,
) -> str:
    """The text of a card in Markdown, after the hub's fields.

    Args:
        origin: the folder of a run, which tells its stage, steps and data; any other tells nothing.
        folder: where the card goes.
        config: the configuration of the cascade there.
        parameters: kind of network -> how many parameters it has.
        licence: the hub's identifier of the weights' licence.
        report: the output folder of `python -m cassr_jax.evaluation`, whose tables are quoted.

    Raises:
        InputError: the report or the run's description cannot be read.
    """
    elsewhere = {kind: part for kind, part in config.components.items() if not exists(folder / part)}
    paragraphs = [_fields(elsewhere, licence), "# A CasSR cascade", _what(config)]
    paragraphs.append(_networks(config, elsewhere, parameters))
    paragraphs += [] if origin is None else _training(origin)
    paragraphs += [] if report is None else _measures(report)
    paragraphs.append(_use())
    text = "\n\n".join(paragraphs) + "\n"
    return text + _mark(text)


def is_generated(card: Path) -> bool:
    """Whether a card is as `model_card` made it, and nobody has added to it."""
    try:
        text, mark, digest = card.read_text("utf-8").rpartition(_MARK)
    except (OSError, UnicodeDecodeError):
        return False
    return mark + digest == _mark(text)


def _mark(text: str) -> str:
    """A comment at the end of a card, by which it is known again while nobody has changed it."""
    return f"{_MARK}{sha256(text.encode()).hexdigest()} -->\n"


def _fields(elsewhere: Mapping[str, str], licence: str | None) -> str:
    lines = ["library_name: cassr-jax", "pipeline_tag: image-to-image", "tags: [super-resolution, jax, flax]"]
    if licence is not None:
        lines.append(f"license: {json.dumps(licence)}")  # a JSON text is YAML's too
    if bases := sorted({source.partition(":")[0] for source in elsewhere.values() if is_hub_id(source)}):
        lines.append(f"base_model: {json.dumps(bases)}")
    return "\n".join(["---", *lines, "---"])


def _what(config: CascadeConfig) -> str:
    scheme = control_scheme(config.control)
    return (
        f"It enlarges photographs and makes them sharp, by {scheme.method} "
        f"([arXiv {scheme.paper}](https://arxiv.org/abs/{scheme.paper})). "
        f"The first stage is `{config.activation}`; the second takes {config.sampling.num_steps} steps of "
        f"`{config.sampling.sampler}` with guidance {config.sampling.guidance_scale:g} for each tile of "
        f"{config.tile} px."
    )


def _networks(config: CascadeConfig, elsewhere: Mapping[str, str], parameters: Mapping[str, int]) -> str:
    lines = ["| part | from | parameters |", "|---|---|---|"]
    for kind in config.components:
        count = f"{parameters[kind]:,}" if kind in parameters else ""
        lines.append(f"| {kind} | {elsewhere.get(kind, 'this repository')} | {count} |")
    return "\n".join(lines)


def _training(origin: Path) -> Iterator[str]:
    found = trained(origin)
    if found is None:
        return
    folder, run = found
    yield f"**Training.** Stage `{run.get('stage')}`, step {run.get('step')}; its {run.get('weights')} weights."
    file = folder.parent / "config.json"  # a run's, beside its export
    if is_file(file):
        yield _data(read_json(file))


def _data(config: Json) -> str:
    data, optimizer = (config.get(name) or {} for name in ("data", "optimizer"))
    names = data.get("mixture") or {data.get("path"): 1}
    sets = ", ".join(Path(str(name)).name for name in names)  # the rest of a path is this machine's business
    return (
        f"**Data.** {sets}, crops of {data.get('crop_size')} px, degraded by the preset `{data.get('preset')}`; "
        f"{config.get('batch_size')} examples a step, learning rate {optimizer.get('learning_rate')}."
    )


def _measures(report: Path) -> Iterator[str]:
    for name in (_TABLE, _COMPARISON):
        if not is_file(report / name):
            raise InputError(f"{report}: holds no {name}, expected the output of python -m cassr_jax.evaluation")
    try:
        table = (report / _TABLE).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{report / _TABLE}: cannot be read ({error})") from error
    yield f"**Measures,** by `python -m cassr_jax.evaluation`:\n\n{table}"


def _use() -> str:
    return (
        "**Use.** With the package `cassr-jax` installed, and OWNER/NAME the name of this repository:\n\n"
        "```python\nimport cassr_jax\nfrom PIL import Image\n\n"
        'cassr_jax.load("OWNER/NAME").upscale(Image.open("photo.jpg")).save("sharp.png")\n```'
    )
