"""Faults in the engine: tiles, waves, programs, and how these are kept."""

from tests.faults.fault import faults
from tests.faults.inference import CASCADE, SEVERAL_TILES

ENGINE = [
    *faults(
        "cassr_jax/engine/rows.py",
        ("tests/engine/test_rows.py",),
        ("x.ndim >= 4 and", "False and"),
        ("with divided(self._placement.division):", "if True:"),
        ("self._unit * self.programs.devices", "self._unit"),
        ("if stage.start is None else programs.encode(pixels[stage.start])", ""),
        ("made)[0, :height, :width]", "made)[0, -height:, -width:]"),
        ("math.lcm(_STEP, self.programs.devices)", "_STEP"),
        ("made)[0, : scale * height, : scale * width]", "made)[0]"),
        ("guides = pixels if stage.fusion is not None else ()", "guides = pixels[::-1]"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_programs_differ_by_key_context_shapes_and_types",),
        ('f"{self._context}_{_digest(key.encode())}{_SUFFIX}"', 'f"a_{_digest(key.encode())}{_SUFFIX}"'),
        ("((x.shape, x.dtype) for x in leaves)", "((x.shape,) for x in leaves)"),
        ("{function}{rest}", "{function}"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_a_damaged_entry_is_made_anew",),
        ("if header == _header(path.name, stored, call):", "if header:"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_a_second_start_traces_nothing",),
        ("found = self._read(path) if ahead is None or ahead.cancel() else ahead.result()", "found = None"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_what_was_used_last_is_read_ahead_in_the_same_order",),
        ("[-_AHEAD:]", "[:_AHEAD]"),
        ('f"{self._context}_*"', '"*"'),
        ("os.utime(path)", "os.utime(path, (0, 0))"),
        ("ahead = self._ahead.pop(path.name, None)", "ahead = None"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_a_program_with_cudnn_s_attention_can_be_kept",),
        (", disabled_checks=_BY_VERSION", ""),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_a_second_start_traces_nothing",),
        (", sharding=sharding)", ")"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_a_failure_in_the_background_reaches_whoever_needs_the_program",),
        ("future.set_exception(error)", "future.set_result(None)"),
    ),
    *faults(
        "cassr_jax/engine/kept.py",
        ("tests/engine/test_kept.py::test_the_end_of_a_process_waits_for_no_long_compilation",),
        ("thread.join(_PATIENCE)", "thread.join()"),
    ),
    *faults(
        "cassr_jax/engine/recent.py",
        ("tests/engine/test_recent.py",),
        ("next(iter(self._values))", "next(reversed(self._values))"),
        ("if key not in self._values:", "if True:"),
    ),
    *faults(
        "cassr_jax/engine/waves.py",
        ("tests/engine/test_waves.py",),
        ("while places < self.share:", "while places <= self.share:"),
        ("return self.share <= usual", "return self.share < usual"),
        ("places // self.at_once) * self.at_once", "places // self.at_once)"),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/test_seams.py::test_tiles_are_denoised_as_the_whole_is",),
        ("start_index=at, slice_size", "start_index=0, slice_size"),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        ("tests/engine/test_engine.py::test_a_wave_that_grows_keeps_its_pixels",),
        ("replace(setting, keeps_control=False)", "setting"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/engine/test_fresh_noise.py::test_tiles_agree_where_they_overlap",),
        ("rows, columns = top + jnp", "rows, columns = left + jnp"),
        ("jax.random.fold_in(jax.random.fold_in(key, row), column)", "jax.random.fold_in(key, row + column)"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/engine/test_fresh_noise.py::test_every_seed_and_step_has_noise_of_its_own",),
        ("(jax.random.fold_in(key, step), rows, columns)", "(key, rows, columns)"),
    ),
    *faults(
        "cassr_jax/engine/layout.py",
        ("tests/test_seams.py::test_tiles_are_denoised_as_the_whole_is",),
        ("corners[:, 0], corners[:, 1]", "corners[:, 1], corners[:, 0]"),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        ("tests/engine/test_previews.py",),
        ("stops[last], state.carry.x0)", "stops[last], state.carry.latents)"),
        ("stage=plain, counter=Counter(0, None))", "stage=plain)"),
        ("previews.show(number, step, picture)", "previews.show(0, step, picture)"),
        ('return wave.calls_of_views if self.decoder == "vae" else []', "return wave.calls_of_views"),
    ),
    *faults(
        "cassr_jax/engine/rows.py",
        ("tests/engine/test_previews.py::test_shared_rows_have_the_previews_of_one_tile",),
        ("self._decoded(plain, state.carry.x0,", "self._decoded(stage, state.carry.latents,"),
    ),
    *faults(
        "cassr_jax/outcomes.py",
        ("tests/engine/test_previews.py",),
        ("enumerate(outcomes, first)", "enumerate(outcomes)"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/engine/test_previews.py",),
        ("first += len(group)", "first += 1"),
        ("second_stage.TAESD if self._has(second_stage.TAESD) else", ""),
    ),
    *faults("cassr_jax/engine/layout.py", CASCADE, ('mode="edge")', 'mode="constant")')),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/test_cascade.py::test_an_rrdbnet_gives_the_reference_and_its_colours_can_be_fixed",),
        ("images.astype(jnp.float32) / 255", "to_float(images)"),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/test_sampling.py::test_kept_features_serve_the_tiles_they_were_made_for",),
        (
            "dynamic_update_index_in_dim(x, new, call, axis=0), all_kept",
            "dynamic_update_index_in_dim(x, new, 0, axis=0), all_kept",
        ),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        SEVERAL_TILES,
        ("jax.tree.map(cut, hints)", "jax.tree.map(lambda x: x[: self.at_once], hints)"),
        ("done = call == order.calls - 1", "done = call == 0"),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/engine/test_programs.py",),
        ("down[:, :, None] * across + right", "down[:, :, None] + across * right"),
        (
            "rows.weight[:, :, None, k] * columns.weight[:, None, :, m]",
            "rows.weight[:, :, None, m] * columns.weight[:, None, :, k]",
        ),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/engine/test_engine.py::test_eight_devices_make_the_pictures_of_one",),
        ("    return device * capacity + slot\n", "    return number\n"),
    ),
    *faults(
        "cassr_jax/engine/layout.py",
        ("tests/engine/test_engine.py::test_numbers_that_are_not_finite_stay_in_their_picture",),
        ("tile = np.where(known, tile, tile[..., :1])", "tile = np.where(known, tile, 0)"),
    ),
    *faults(
        "cassr_jax/engine/layout.py",
        ("tests/engine/test_engine.py::test_company_and_place_change_no_pixel",),
        ("        begin += each.count\n", "        begin += 0\n"),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        ("tests/engine/test_engine.py::test_company_and_place_change_no_pixel",),
        ("jax.tree.map(lambda x, place=place: x[place], made)", "jax.tree.map(lambda x: x[0], made)"),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        ("tests/engine/test_engine.py::test_company_does_not_change_what_a_network_enlarges",),
        (
            "in_calls(range(wave.seats.count), wave.seats.width)",
            "[wave.seats.of_call(number) for number in range(wave.seats.calls)]",
        ),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        ("tests/test_cascade_golden.py::test_both_stages_equal_the_recorded[controlnet]",),
        ("programs.encode(images[stage.start])", "programs.encode(images[0])"),
    ),
    *faults(
        "cassr_jax/engine/waves.py",
        ("tests/engine/test_engine.py::test_eight_devices_make_the_pictures_of_one",),
        ("places[device * self.capacity + slot] = values", "places[: self.count] = values"),
    ),
    *faults(
        "cassr_jax/engine/waves.py",
        ("tests/test_seams.py::test_decoded_tiles_fit_whatever_is_in_them",),
        ("self._rows[row, : part.shape[0], None, None]", "self._rows[0, : part.shape[0], None, None]"),
    ),
    *faults(
        "cassr_jax/engine/layout.py",
        ("tests/engine/test_layout.py",),
        ("or sides[0] >= 2 * enough", "or sides[0] > 2 * enough"),
        ("(len(sides) == 1 or sides[0] >= 2 * enough)", "len(sides) == 1"),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/engine/test_engine.py::test_a_sampling_loop_takes_nothing_from_the_host",),
        ("self.everywhere((order, np.int32(first), np.int32(last)))", "(order, np.int32(first), np.int32(last))"),
    ),
    *faults(
        "cassr_jax/engine/programs.py",
        ("tests/test_seams.py::test_decoded_tiles_fit_whatever_is_in_them",),
        ("with recorded() if moments is None else given(moments) as own:", "with recorded() as own:"),
    ),
    *faults(
        "cassr_jax/compiled.py",
        ("tests/test_compiled.py::test_what_is_damaged_is_compiled_again_and_kept",),
        ("                entry.unlink()\n", ""),
        ("warnings.showwarning = _mending(compiled, warnings.showwarning)", "pass"),
    ),
    *faults(
        "cassr_jax/engine/layout.py",
        ("tests/engine/test_layout.py",),
        ("known = (tile < len(first)) & (", "known = ("),
        ("np.searchsorted(first, position - side", "np.searchsorted(first, position - side + 1"),
    ),
]
