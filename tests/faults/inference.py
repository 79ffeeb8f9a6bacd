"""Faults in how the cascade runs its stages: starts, prompts, noise, tiles, blending, and in what it is measured by."""

from tests.faults.fault import faults

CASCADE = (
    "tests/test_cascade_golden.py::test_both_stages_equal_the_recorded[scedit]",
    "tests/test_cascade_golden.py::test_both_stages_equal_the_recorded[controlnet]",
)
SEVERAL_TILES = ("tests/test_seams.py::test_tiles_are_denoised_as_the_whole_is",)

INFERENCE = [
    *faults(
        "cassr_jax/restoration.py",
        ("tests/test_cascade.py::test_weights_that_are_not_finite_themselves_are_named",),
        ('with np.errstate(invalid="ignore", over="ignore"):', "if True:"),
    ),
    *faults(
        "cassr_jax/networks.py",
        ("tests/test_cascade.py::test_half_precision_is_named_only_where_it_is_used",),
        ('"" if precision == "float32" else f" in', 'f" in'),
        ("if not jnp.isfinite(array).all():", "if False:"),
    ),
    *faults(
        "cassr_jax/models/dot_product.py",
        ("tests/models/test_dot_product.py::test_blocks_are_used_for_long_queries_and_equal_the_plain_form",),
        ("if length <= _LONGEST_WHOLE:", "if length <= _LONGEST_WHOLE or length % _QUERY_BLOCK:"),
    ),
    *faults(
        "cassr_jax/models/dot_product.py",
        ("tests/models/test_dot_product.py::test_on_a_cpu_one_head_after_the_other_equals_all_at_once",),
        ("found / weights.sum(axis=-1, keepdims=True)", "found / weights.sum(axis=0)[:, None][: len(found)]"),
        ("(query * head_dim**-0.5, key, value))", "(query, key, value))"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/engine/test_engine.py::test_a_source_may_use_its_array_again",),
        ("rgb = np.array(picture)", "rgb = np.asarray(picture)"),
    ),
    *faults(
        "cassr_jax/imaging/io.py",
        ("tests/engine/test_engine.py::test_a_source_may_use_its_array_again",),
        ('np.array(shallow(alpha), order="C")', "shallow(alpha)"),
    ),
    *faults(
        "cassr_jax/progress.py",
        ("tests/engine/test_engine.py::test_an_error_of_the_caller_is_not_a_picture_s",),
        ("raise CallersError(error) from error", "raise"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/test_cascade.py::test_the_first_stage_has_settings_of_its_own",),
        (
            '_stage("reference", make_denoiser, config.activation_sampling, self.chosen)',
            '_stage("reference", make_denoiser, config.sampling, self.chosen)',
        ),
    ),
    *faults(
        "cassr_jax/cascade.py",
        CASCADE,
        ('jax.random.fold_in(seed_key(chosen.seed), name == "result")', "seed_key(chosen.seed)"),
        ("else names.index(start)", "else 0"),
        ("tuple(map(names.index, reads))", "tuple(map(names.index, reads[::-1]))"),
        ("self._tokenizer, sampling.prompts)", "self._tokenizer, sampling.prompts[::-1])"),
    ),
    *faults(
        "cassr_jax/restoration.py",
        CASCADE,
        (
            '(made if made.dtype.kind == "f" else to_float(made), to_float(lq))',
            '(to_float(lq), made if made.dtype.kind == "f" else to_float(made))',
        ),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/engine/test_engine.py::test_a_source_that_fails_loses_no_picture_that_it_gave",),
        ("            fault = error\n", "            raise\n"),
        ("            raise fault\n", "            return\n"),
    ),
    *faults(
        "cassr_jax/imaging/pixels.py",
        ("tests/test_cascade.py::test_the_reference_has_its_share_in_the_result",),
        ("share * to_float(a) + (1 - share) * to_float(b)", "(1 - share) * to_float(a) + share * to_float(b)"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/test_sampling.py::test_each_step_is_guided_as_the_course_says",),
        ("self.first_guided <= step", "self.first_guided < step"),
        ("step < self.stop_guided", "step <= self.stop_guided"),
        ("step % self.control_every == 0, changes", "step % self.control_every == 0, step < 0"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/test_sampling.py::test_a_course_that_cannot_be_taken_is_refused",),
        ("if sampling.guidance_from > sampling.guidance_to:", "if False:"),
    ),
    *faults(
        "cassr_jax/config.py",
        ("tests/test_sampling.py::test_without_guidance_there_is_no_negative_prompt",),
        ("self.negative_prompt if self.guided_steps else", "self.negative_prompt if self.guidance_scale != 1 else"),
    ),
    *faults(
        "cassr_jax/loading.py",
        ("tests/test_sampling.py::test_a_stage_without_a_controlnet_keeps_nothing",),
        ("if kept > 1 and stage.diffuses", "if False"),
        ("not any(KINDS[kind].copies_encoder", "not all(KINDS[kind].bundled"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/test_sampling.py::test_a_step_without_guidance_is_of_the_prompt",),
        ("lambda x: x[len(x) // 2 :], tree", "lambda x: x[: len(x) // 2], tree"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        CASCADE,
        ("negative, positive = jnp.split(both, 2)", "positive, negative = jnp.split(both, 2)"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/test_cascade.py::test_the_weaker_the_start_the_nearer_the_reference_passed_through_the_autoencoder",),
        ("round(sampling.strength * (schedule", "round((1 - sampling.strength) * (schedule"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        SEVERAL_TILES,
        ("dynamic_index_in_dim(table, step, keepdims=True)", "dynamic_index_in_dim(table, 0, keepdims=True)"),
        ("jnp.repeat(prompts, batch, axis=0)", "jnp.concatenate([prompts] * batch)"),
    ),
    *faults(
        "cassr_jax/outcomes.py",
        ("tests/engine/test_engine.py::test_an_exception_among_the_pictures_stays_in_its_place",),
        ("[outcome if isinstance(outcome, Exception) else next(made)", "[next(made, outcome)"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/engine/test_engine.py::test_a_group_that_does_not_fit_is_restored_one_by_one",),
        ("if len(group) == 1:", "if True:"),
        ("[error.with_traceback(None) if ran_out(error) else error]", "[error]"),
    ),
    *faults(
        "sample.py",
        ("tests/end_to_end/test_sample_previews.py",),
        ("taken[preview.picture]", "taken[min(taken)]"),
        ("if isinstance(fault, Exception):", "if False:"),
    ),
    *faults(
        "sample.py",
        ("tests/end_to_end/test_sample_written.py",),
        ("taken.pop(number)", "taken.popitem()[1]"),
    ),
    *faults(
        "sample.py",
        ("tests/end_to_end/test_sample_resumed.py::test_the_manifest_knows_the_bytes_that_were_decoded",),
        (
            "taken[number] = job.of_content(found.picture, found.sha256), found.picture",
            "taken[number] = job, found.picture",
        ),
    ),
    *faults(
        "sample.py",
        (
            "tests/end_to_end/test_sample_prompts.py",
            "tests/end_to_end/test_sample_refused.py::test_options_that_the_cascade_refuses_claim_nothing",
        ),
        ("for name, prompt in prompts.items():", "for name, prompt in [*prompts.items()][:1]:"),
        ('    cassr.check(**{name: getattr(args, name) for name in ("scale", "seed", *SAMPLING)})\n', ""),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/test_cascade.py::test_arrays_of_jax_are_taken_like_those_of_numpy",),
        (
            'hasattr(image, "__array__") and getattr(image, "ndim", 0) == 4',
            "isinstance(image, np.ndarray) and image.ndim == 4",
        ),
        ('np.array(picture) if hasattr(picture, "__array__") else picture', "picture"),
    ),
    *faults(
        "cassr_jax/commands/testset.py",
        ("tests/commands/test_testset.py",),
        ("        with taking_turns(output):\n", "        if True:\n"),
        ("            if not exists(output):  # still", "            if True:  # still"),
    ),
    *faults(
        "cassr_jax/commands/bundle.py",
        ("tests/commands/test_bundle.py",),
        ('    with claimed(arguments.output, "bundle"):\n', "    if True:\n"),
    ),
    *faults(
        "cassr_jax/commands/fingerprint.py",
        ("tests/commands/test_fingerprint.py",),
        ("[*files_below(path)]", '[file for file in path.rglob("*") if file.is_file()]'),
        (", cache(sha256)", ", sha256"),
    ),
    *faults(
        "cassr_jax/commands/shard.py",
        ("tests/end_to_end/test_sample_resumed.py::test_machines_share_a_folder_by_shards",),
        ("items[self.index - 1 :: self.count]", "items[self.index :: self.count]"),
    ),
    *faults(
        "cassr_jax/commands/jobs.py",
        ("tests/end_to_end/test_sample_resumed.py::test_the_manifest_knows_the_bytes_that_were_decoded",),
        ("hashlib.sha256(counted).hexdigest()", "hashlib.sha256(path.read_bytes()).hexdigest()"),
    ),
    *faults(
        "cassr_jax/printing.py",
        ("tests/test_printing.py",),
        (', "backslashreplace")', ")"),
        ("            os.dup2(nowhere.fileno(), stream.fileno())\n", "            pass\n"),
        ('"file": _Lasting(sys.stderr)', '"file": sys.stderr'),
        ("    if sys.stderr.isatty():\n", "    if True:\n"),
        ('{"disable": None, ', '{"disable": False, '),
    ),
    *faults(
        "cassr_jax/commands/running.py",
        ("tests/commands/test_running.py::test_help_that_nobody_reads_is_no_error",),
        ("                settle()\n", "                pass\n"),
    ),
    *faults(
        "cassr_jax/commands/running.py",
        ("tests/commands/test_running.py::test_closed_streams_end_nothing_and_nothing_is_printed_into_another_file",),
        ("os.O_RDWR)) <= 2", "os.O_RDWR)) <= 0"),
        ("            setattr(sys, name, nowhere)\n", "            pass\n"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/test_cascade.py::test_options_can_be_checked_before_a_call",),
        ("make_course(config.known_schedule, sampling)  # checked early", "pass  # checked early"),
    ),
    *faults(
        "cassr_jax/prompts.py",
        ("tests/test_cascade.py::test_options_can_be_checked_before_a_call",),
        ("            prompt.encode()\n", "            pass\n"),
    ),
    *faults(
        "cassr_jax/commands/settings.py",
        ("tests/end_to_end/test_sample_written.py::test_the_manifest_names_every_setting_that_really_ran",),
        ("negative, prompt = sampling.prompts", "prompt, negative = sampling.prompts"),
        ("_described(config.activation_sampling)", "_described(config.sampling)"),
    ),
    *faults(
        "cassr_jax/imaging/inputs.py",
        ("tests/end_to_end/test_sample_refused.py::test_all_missing_paths_are_named_before_any_work",),
        ("', '.join(missing)", "missing[0]"),
    ),
    *faults(
        "cassr_jax/commands/overlap.py",
        ("tests/commands/test_overlap.py",),
        ("waiting.popleft().result()\n        while", "waiting.pop().result()\n        while"),
        ("if len(waiting) > ahead", "if len(waiting) > 2 * ahead"),
    ),
    *faults(
        "cassr_jax/diffusion/trajectory.py",
        CASCADE,
        ("trajectory.signal[0] * x0.astype(jnp.float32) + trajectory", "x0.astype(jnp.float32) + trajectory"),
    ),
    *faults(
        "cassr_jax/diffusion/samplers.py",
        ("tests/diffusion/test_samplers.py::test_trajectory_equals_the_recorded_one",),
        (
            "following = index - schedule.timestep_range(first_timestep) // num_steps",
            "following = np.append(index[1:], -1)",
        ),
        ("b1 = -1 / h - 1 / b_h", "b1 = -1 / h + 1 / b_h"),
        ("corrected * p.keep + x0 * p.new", "carry.latents * p.keep + x0 * p.new"),
    ),
    *faults(
        "cassr_jax/diffusion/stochastic.py",
        ("tests/diffusion/test_stochastic.py::test_fresh_noise_makes_up_what_a_step_takes_away",),
        ("kept = (next_sigmas / sigmas) ** 2", "kept = next_sigmas / sigmas"),
        ("fresh=np.sqrt(1 - ratio**2)", "fresh=np.sqrt(1 - ratio)"),
        ("fresh=next_noise", "fresh=next_signal"),
    ),
    *faults(
        "cassr_jax/diffusion/stochastic.py",
        ("tests/diffusion/test_samplers.py::test_trajectory_equals_the_recorded_one",),
        ("scaled = 0.5, 10.0 * timesteps", "scaled = 0.5, timesteps / 1000"),
        ("between = np.floor(np.float32(1 - self.eta)", "between = np.floor(np.float32(self.eta)"),
    ),
    *faults(
        "cassr_jax/diffusion/schedule.py",
        ("tests/diffusion/test_schedule.py",),
        ("start**0.5, end**0.5, length) ** 2", "start, end, length)"),
        ("(x_t - noise_level * output) / signal", "(x_t - noise_level * output) * signal"),
        ("signal * noise.astype(jnp.float32) - noise_level", "noise_level * noise.astype(jnp.float32) - signal"),
    ),
    *faults(
        "cassr_jax/models/fusion.py",
        ("tests/models/test_fusion.py",),
        ("return x + jnp.asarray(weight, x.dtype) * added", "return x + added"),
        ("[features[level] for features in guides]", "[features[level] for features in guides[::-1]]"),
    ),
    *faults(
        "cassr_jax/models/guided_decoder.py",
        ("tests/models/test_guided_decoder.py",),
        ("return pictures[..., -_RGB:] +", "return pictures[..., :_RGB] +"),
        ("[latents.astype(jnp.float32), folded]", "[jnp.zeros_like(latents), folded]"),
        ("return plain + jnp.asarray(weight, plain.dtype) *", "return plain + 1.0 *"),
        ('x.shape[-1]), "linear")', 'x.shape[-1]), "nearest")'),
        ("x.transpose(0, 1, 3, 2, 4, 5)", "x.transpose(0, 1, 3, 4, 2, 5)"),
    ),
    *faults(
        "cassr_jax/evaluation/frechet.py",
        ("tests/evaluation/test_frechet.py",),
        ("np.sqrt(len(z) - 1)", "np.sqrt(len(z))"),
        ("np.square(y).sum() - 2 * cross", "np.square(y).sum() - cross"),
    ),
]
