"""The cascade as a Python object: load it, give it a picture.

cassr = cassr_jax.load("tiny")
sharp = cassr.upscale(image, seed=0)         # a PIL image or an array, whichever was given
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar, overload

import jax
import numpy as np
from jax.sharding import Mesh

from cassr_jax import second_stage
from cassr_jax.choices import Split
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.control import control_scheme
from cassr_jax.control.interface import PICTURES
from cassr_jax.engine.engine import Engine, Previews, Stage
from cassr_jax.engine.programs import Programs
from cassr_jax.engine.recent import Recent
from cassr_jax.engine.rows import RowEngine, RowPrograms, mesh_of_rows
from cassr_jax.engine.seating import mesh_of_tiles, seating
from cassr_jax.errors import InputError, ran_out
from cassr_jax.first_stage import first_stage
from cassr_jax.imaging import io, memory, resizing
from cassr_jax.imaging.pixels import blended, to_uint8
from cassr_jax.models.denoisers import MakeDenoiser
from cassr_jax.networks import Networks, why_not_finite
from cassr_jax.options import Options
from cassr_jax.outcomes import known, of_the_sound
from cassr_jax.progress import CallersError, StageName, callers_errors, report, showing
from cassr_jax.prompts import check_prompts, prompt_ids
from cassr_jax.restoration import Pair, Restoration, finished, of_size, output_size, timed
from cassr_jax.sampling import make_course
from cassr_jax.seeds import seed_key
from cassr_jax.typing import Device

_TEXTS = 8  # pairs of prompts whose embeddings are kept: pictures may have prompts of their own

T = TypeVar("T")
Made = TypeVar("Made")


class CasSR:
    """A loaded cascade; `cassr_jax.load` makes one.

    Args:
        config: how both stages are sampled.
        networks: the networks of both stages.
        tokenizer: folder or hub id of CLIP's tokenizer, if the text encoder is CLIP.
        devices: how many devices share the tiles of the pictures, or which ones; by default all accelerators of this
            process, or one CPU.
        split: whether they share the tiles of all pictures, or (spatial) the rows of one whole picture at a time.
        programs: makes the compiled functions of tiles.

    Raises:
        InputError: there are fewer devices, or the configuration names an unknown first stage.
    """

    def __init__(
        self,
        config: CascadeConfig,
        networks: Networks,
        tokenizer: str | None = None,
        devices: int | Sequence[Device] | None = None,
        split: Split = "tiles",
        programs: Callable[[Networks, Mesh, int], Programs] = Programs,
    ):
        self.config = config
        self.first_stage = first_stage(config.activation)
        mesh = mesh_of_tiles(devices)
        if split == "spatial":
            self._engine: Engine = RowEngine(RowPrograms(networks, mesh_of_rows(mesh.devices.tolist())))
            self._fill = 1
        else:
            at_once, self._fill = seating(mesh.devices.flat[0].platform, mesh.size, config.tiles_at_once)
            self._engine = Engine(programs(networks, mesh, at_once), overlap=config.tile_overlap)
        self.networks = self._engine.programs.networks
        self._tokenizer = tokenizer
        self._texts: Recent[tuple[str, str], jax.Array] = Recent(_TEXTS)
        self.control_scheme = control_scheme(config.control)
        self._second_stage = second_stage.denoiser_maker(self.control_scheme, config.switches)

    @overload
    def upscale(self, image: io.Kind, **options: object) -> io.Kind: ...

    @overload
    def upscale(self, image: Iterable[io.Kind], **options: object) -> Iterator[io.Kind]: ...

    def upscale(self, image: Any, **options: object) -> Any:
        """Restores and enlarges a picture; returns a PIL image for a PIL image, an array for an array.

        Args:
            image: a PIL image of any mode, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, which then is
                the type of the result; alpha is enlarged and kept. An array may be of NumPy or JAX; the result is
                NumPy's. For an array (B, H, W, 3) or (B, H, W, 4), an array of the results. For any other iterable of
                pictures, of any sizes and kinds, an iterator over the results: their tiles fill the devices together,
                and pictures are taken as they are needed.
            options: see `Options`.

        Raises:
            InputError: an option is out of range, or a picture cannot be restored. With an iterable, the error comes in
                the picture's place and ends the iterator; `restore_many` goes on.
        """
        if hasattr(image, "__array__") and getattr(image, "ndim", 0) == 4 and len(image):
            return np.stack(list(self._upscaled(np.asarray(image), options)))
        if _is_many(image):
            self._checked(options)
            return self._upscaled(image, options)
        return io.upscale(image, lambda rgb: self.restore(rgb, **options).result)

    def _upscaled(self, images: Iterable[io.Kind], options: Mapping[str, object]) -> Iterator[io.Kind]:
        taken: deque[tuple[io.Picture, Callable[[io.Picture], io.Kind]] | None] = deque()

        def pictures() -> Iterator[np.ndarray | Exception]:
            for image in images:
                try:
                    picture, back = io.as_picture(image)
                    taken.append((picture, back))
                    yield io.opaque(picture)
                except InputError as error:
                    taken.append(None)
                    yield error

        for outcome in self.restore_many(pictures(), **options):
            found, restoration = taken.popleft(), known(outcome)
            assert found is not None, "what was restored was a picture"
            yield found[1](io.with_rgb(found[0], restoration.result))

    def reference(self, image: io.Kind, **options: object) -> io.Kind:
        """Runs the first stage alone; its picture is the reference that guides `upscale`."""
        chosen = self._checked(options, first_stage_alone=True)
        with callers_errors():
            return io.upscale(image, lambda rgb: self._reference(rgb, chosen))

    def _reference(self, rgb: np.ndarray, chosen: Options) -> np.ndarray:
        """The first stage's picture at the size of the result."""
        pair = known(self._references([rgb], [0], chosen)[0])
        return of_size(pair.reference, pair.size)

    def restore(self, rgb: np.ndarray, **options: object) -> Restoration:
        """Runs both stages on RGB (h, w, 3), uint8 or uint16; see `Options`.

        Raises:
            InputError: an option is out of range, `rgb` has another type or shape, the picture is too large, or the
                networks' numbers overflow.
        """
        (restoration,) = self.restore_many([rgb], **options)
        return known(restoration)

    def restore_many(
        self, pictures: Iterable[np.ndarray | Exception], **options: object
    ) -> Iterator[Restoration | Exception]:
        """Runs both stages on any number of pictures of any size; their tiles fill the devices together.

        The results come in order and equal those of `restore`. Pictures are read a few at a time, as they are needed.
        A picture that cannot be restored yields its exception, and the others are still restored. The caller may pass
        an exception for a picture that could not be read; it is yielded in its place.

        Raises:
            InputError: an option is out of range, or `pictures` are not iterable.
        """
        chosen = self._checked(options)
        try:
            taken = iter(pictures)
        except TypeError as error:
            found = type(pictures).__name__
            raise InputError(f"the pictures are of type {found}, expected an iterable of arrays") from error

        def outcomes() -> Iterator[Restoration | Exception]:
            with callers_errors():
                first = 0
                for group in self._groups(taken, chosen):
                    yield from self._restored(group, first, chosen)
                    first += len(group)

        return outcomes()

    def check(self, **options: object) -> None:
        """Checks the options of a call that is not made yet.

        Raises:
            InputError: an option is out of range, or does not fit this cascade.
        """
        self._checked(options)

    def _checked(self, options: Mapping[str, Any], first_stage_alone: bool = False) -> Options:
        """The options of a call, checked against this cascade."""
        chosen = Options(**options)
        chosen.check_networks(self.networks.configs)
        if chosen.tile is not None and isinstance(self._engine, RowEngine):
            raise InputError(f"tile is {chosen.tile} beside split spatial, expected none: there are no tiles")
        config = self._settings(chosen)
        self._engine.tiles((1, 1), config.tile)
        first, second = [config.activation_sampling] * self.first_stage.diffuses, [config.sampling]
        for sampling in first if first_stage_alone else first + second:
            make_course(config.known_schedule, sampling)  # checked early: the first stage may take long
            check_prompts(self.networks.configs["text_encoder"], sampling.prompts)
        return chosen

    def _settings(self, chosen: Options) -> CascadeConfig:
        """The configuration of one call."""
        return chosen.written_into(self.config)

    def _restored(
        self, group: Sequence[np.ndarray | Exception], first: int, chosen: Options
    ) -> list[Restoration | Exception]:
        """The outcomes of a group of pictures, the first of which has the number `first` among the caller's."""
        start = time.monotonic()
        try:
            pairs = of_the_sound(partial(self._references, chosen=chosen), group, first)
            return timed(of_the_sound(partial(self._results, chosen=chosen), pairs, first), time.monotonic() - start)
        except CallersError:
            raise
        except Exception as error:
            if len(group) == 1:
                # A traceback would keep the arrays that filled the memory.
                return [error.with_traceback(None) if ran_out(error) else error]
        # Only now, because the error has gone, and the group's arrays with it. A picture that asks for too much fails
        # alone.
        return [each for number, rgb in enumerate(group, first) for each in self._restored([rgb], number, chosen)]

    def _groups(
        self, pictures: Iterable[np.ndarray | Exception], chosen: Options
    ) -> Iterator[list[np.ndarray | Exception]]:
        """Divides the pictures into groups that are just large enough to fill the devices."""
        group: list[np.ndarray | Exception] = []
        tiles, fault = 0, None
        try:
            for picture in pictures:
                checked, count = self._counted(picture, chosen)
                kinds = {each.dtype for each in (*group, checked) if isinstance(each, np.ndarray)}
                if len(kinds) > 1:  # a call of a network takes pictures of one type
                    yield group
                    group, tiles = [], 0
                group.append(checked)
                tiles += count
                if tiles >= self._fill:
                    yield group
                    group, tiles = [], 0
        except Exception as error:  # the caller's: the pictures given so far are restored first
            fault = error
        if group:
            yield group
        if fault is not None:
            raise fault

    def _counted(self, picture: np.ndarray | Exception, chosen: Options) -> tuple[np.ndarray | Exception, int]:
        """The picture and the number of its tiles, or the reason why it cannot be restored."""
        if isinstance(picture, Exception):
            return picture, 0
        try:
            # The array may be one of JAX. It is copied, because whoever reads frames may reuse it for the next one.
            rgb = np.array(picture) if hasattr(picture, "__array__") else picture
            return rgb, self._engine.tiles(self._working_size(rgb, chosen), self._settings(chosen).tile)
        except Exception as error:
            return error, 0

    def _working_size(self, rgb: np.ndarray, chosen: Options) -> tuple[int, int]:
        """The size at which a picture goes through the networks: its result's, or larger if that is small."""
        size = resizing.working_size(output_size(rgb, chosen.scale), self._settings(chosen).process_size)
        memory.check(*size)
        return size

    def _references(
        self, pictures: Sequence[np.ndarray], numbers: Sequence[int], chosen: Options
    ) -> list[Pair | Exception]:
        """What the second stage reads, for each picture, rounded to its bits; in training these are 8.

        The pictures have these `numbers` among the caller's.
        """
        lqs = [resizing.bicubic(rgb, self._working_size(rgb, chosen)) for rgb in pictures]
        made = self.first_stage.reference(_FirstStageEngine(self, numbers, chosen), pictures, lqs)
        color_fix = self._settings(chosen).reference_color_fix
        references = [
            self._finished("reference", picture, lq, color_fix) for picture, lq in zip(made, lqs, strict=True)
        ]
        return [
            reference if isinstance(reference, Exception) else Pair(lq, reference, self._bicubic(rgb, lq, chosen))
            for rgb, lq, reference in zip(pictures, lqs, references, strict=True)
        ]

    def _bicubic(self, rgb: np.ndarray, lq: np.ndarray, chosen: Options) -> np.ndarray:
        size = output_size(rgb, chosen.scale)
        return lq if lq.shape[:2] == size else resizing.bicubic(rgb, size)

    def _results(self, pairs: Sequence[Pair], numbers: Sequence[int], chosen: Options) -> list[Restoration | Exception]:
        config, reads = self._settings(chosen), self.control_scheme.reads
        start = config.sampling.start
        fusion = second_stage.FUSION if config.decoder == "vae" and self._has(second_stage.FUSION) else None
        used = {*reads, start} if fusion is None else {*PICTURES}
        names = [name for name in PICTURES if name in used]
        stage = replace(
            self._stage("result", self._second_stage, config.sampling, chosen),
            start=None if start == "noise" else names.index(start),
            reads=tuple(map(names.index, reads)),
            fusion=fusion,
            fidelity=config.fidelity,
            decoder=config.decoder,
        )
        images = tuple([getattr(pair, name) for pair in pairs] for name in names)
        previews = self._previews("result", stage, numbers, chosen)
        made = self._engine.diffuse(stage, images, config.tile, report("result", chosen.progress), previews)
        return [self._result(pair, picture, config) for pair, picture in zip(pairs, made, strict=True)]

    def _result(self, pair: Pair, made: np.ndarray, config: CascadeConfig) -> Restoration | Exception:
        """The second stage's picture with its colours fixed, mixed with the reference."""
        result = self._finished("result", made, pair.lq, config.color_fix)
        if isinstance(result, Exception):
            return result
        if weight := config.reference_weight:
            result = blended(pair.reference, result, weight)
        return Restoration(pair.bicubic, of_size(pair.reference, pair.size), of_size(result, pair.size))

    def _finished(self, stage: StageName, made: np.ndarray, lq: np.ndarray, color_fix: str) -> np.ndarray | Exception:
        picture = finished(made, lq, color_fix)
        if picture is not None:
            return picture
        return InputError(f"the {stage} has numbers that are not finite, expected finite ones; {self._why_not_finite}")

    @cached_property
    def _why_not_finite(self) -> str:
        return why_not_finite(self.networks.params)

    def _stage(self, name: StageName, make_denoiser: MakeDenoiser, sampling: SamplingConfig, chosen: Options) -> Stage:
        return Stage(
            make_denoiser,
            sampling,
            make_course(self.config.known_schedule, sampling),
            self._text(sampling),
            start=None if sampling.start == "noise" else 0,
            noise_key=jax.random.fold_in(seed_key(chosen.seed), name == "result"),
        )

    def _previews(self, name: StageName, stage: Stage, numbers: Sequence[int], chosen: Options) -> Previews | None:
        """The previews of a stage on pictures with these numbers among the caller's, if the caller wants any."""
        if chosen.preview is None:
            return None
        show = showing(name, len(stage.course.trajectory.timesteps), numbers, chosen.preview)
        decoder = second_stage.TAESD if self._has(second_stage.TAESD) else "vae"
        return Previews(chosen.preview_every, decoder, lambda place, step, made: show(place, step, to_uint8(made)))

    def _has(self, kind: str) -> bool:
        return kind in self.networks.configs

    def _text(self, sampling: SamplingConfig) -> jax.Array:
        """The embeddings of the negative prompt and the prompt, (2, L, C), computed once."""

        def embeddings() -> jax.Array:
            ids = prompt_ids(self.networks.configs["text_encoder"], self._tokenizer, sampling.prompts)
            return self._engine.programs.encode_text(ids)

        return self._texts.get(sampling.prompts, embeddings)


@dataclass(frozen=True)
class _FirstStageEngine:
    """Runs networks for the first stage on lists of pictures, with the options of one call."""

    cassr: CasSR
    numbers: Sequence[int]
    chosen: Options

    def diffuse(self, make_denoiser: MakeDenoiser, images: tuple[Sequence[np.ndarray], ...]) -> list[np.ndarray]:
        config = self.cassr._settings(self.chosen)
        stage = self.cassr._stage("reference", make_denoiser, config.activation_sampling, self.chosen)
        previews = self.cassr._previews("reference", stage, self.numbers, self.chosen)
        progress = report("reference", self.chosen.progress)
        return self.cassr._engine.diffuse(stage, images, config.tile, progress, previews)

    def enlarge(self, kind: str, lr: Sequence[np.ndarray], lq: Sequence[np.ndarray]) -> list[np.ndarray]:
        tile = self.cassr._settings(self.chosen).tile
        made = self.cassr._engine.enlarge(kind, lr, tile, report("reference", self.chosen.progress))
        return [resizing.resized(picture, whole.shape[:2]) for picture, whole in zip(made, lq, strict=True)]


def _is_many(image: object) -> bool:
    return hasattr(image, "__iter__") and not hasattr(image, "__array__") and not isinstance(image, str | bytes)
