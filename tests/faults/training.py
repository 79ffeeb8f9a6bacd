"""Faults in what is minimised, what trains, the step, the order of a run, and the pairs that it learns from."""

from tests.faults.fault import faults

OBJECTIVES = "tests/training/test_objectives.py::"
STEP = "tests/training/test_step.py::"
LOOP = "tests/training/test_loop.py::"
VALIDATION = "tests/training/test_validation.py::"
REFUSALS = "tests/training/test_refusals.py::"
REFERENCES = "tests/commands/test_references.py::"

_SAVE = """\
        if step % config.save_every == 0 and step > start:
            monitor.settle(state)
            checkpoints.save(state, data.stream.get_state(), monitor.measures(step))
            home.send_logs(growing=True)
"""
_LIMIT = "        checkpoints.limit_loss(step, config.max_lost_steps or config.save_every)\n"
_NEXT = """\

        with monitor.waiting():
            batch, placed = data.next_batch()
"""

TRAINING = [
    *faults(
        "cassr_jax/commands/references.py",
        (REFERENCES + "test_what_would_only_concern_references_of_another_first_stage_is_refused",),
        ("if first is None or not first.diffuses]", "if first is None]"),
        ("field in networks and networks[field] not in needed", "field in networks and needed == ()"),
        ('["color_fix"] if first is None else []', "[]"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_the_vae_loss_is_l1_and_kl",),
        ("_sampled(mean, jnp.exp(0.5 * logvar), sample_keys)", "_sampled(mean, jnp.exp(logvar), sample_keys)"),
        ("mean**2 + jnp.exp(logvar) - 1 - logvar", "mean**2 + jnp.exp(logvar) - 1 + logvar"),
        ("jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3))", "mean**2 + jnp.exp(logvar) - 1 - logvar"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_the_prompt_is_dropped_with_its_probability",),
        ("jnp.where(dropped[:, None, None], empty, prompt)", "jnp.where(dropped[:, None, None], prompt, empty)"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_a_samplers_first_step_is_aimed_at_the_same_picture",),
        ("        noise = schedule.implied_noise(latents, noisy, timesteps)\n", ""),
        ("return loss + settings.image_weight * image_loss", "return loss + image_loss"),
        ("timesteps.at[:started].set(settings.start_timestep)", "timesteps.at[:started].min(settings.start_timestep)"),
        ("batch[start_read(config)][:started]", "batch['hr'][:started]"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_cached_moments_give_the_loss_of_the_encoder",),
        ('sampled * modules["vae"].config.scaling_factor', "sampled"),
        ("mean, jnp.exp(0.5 * logvar), latent_keys)", "mean, jnp.exp(logvar), latent_keys)"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_a_batch_costs_what_its_examples_cost",),
        ("jnp.std(mean, axis=(1, 2), keepdims=True)", "jnp.std(mean)"),
    ),
    *faults(
        "cassr_jax/diffusion/loss.py",
        ("tests/diffusion/test_loss.py",),
        ("return clipped / (snr + 1)", "return clipped / snr"),
        ("0, maximum + 1, dtype", "0, maximum, dtype"),
    ),
    *faults(
        "cassr_jax/training/image_loss.py",
        ("tests/training/test_image_loss.py::test_neither_gradient_reaches_the_other_side",),
        ("shown = jax.lax.stop_gradient(fake)", "shown = fake"),
        ("merge(graphdef, jax.lax.stop_gradient(params))(fake)", "merge(graphdef, params)(fake)"),
    ),
    *faults(
        "cassr_jax/training/masking.py",
        ("tests/training/test_masking.py",),
        (
            'return name.split(".", 1)[0] in (*stage_named(stage).trains, DISCRIMINATOR)',
            "return name.startswith((*stage_named(stage).trains, DISCRIMINATOR))",
        ),
        ("if name not in trainable}", "if name in trainable}"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        (OBJECTIVES + "test_a_fusion_has_no_loss_but_the_pictures",),
        ("if stage_named(config.stage).decodes:", "if False:"),
    ),
    *faults(
        "cassr_jax/control/cassr.py",
        (OBJECTIVES + "test_a_denoiser_reads_the_pictures_that_it_samples_with",),
        ('reads=("lq", "reference")', 'reads=("reference", "lq")'),
    ),
    *faults(
        "cassr_jax/training/stages.py",
        (OBJECTIVES + "test_a_denoiser_reads_the_pictures_that_it_samples_with",),
        ('TrainingStage(stage.trains, reads=("lq",)', 'TrainingStage(stage.trains, reads=("hr",)'),
    ),
    *faults(
        "cassr_jax/training/step.py",
        (STEP + "test_the_average_follows_the_weights",),
        ("new, old = (params, opt_state, ema), (state", "new, old = (params, opt_state, state.ema), (state"),
        ("(1 + state.step) / (10 + state.step)", "(1 + state.step) / (2 + state.step)"),
        (
            "optax.incremental_update(params, state.ema, 1 - decay)",
            "optax.incremental_update(params, state.ema, decay)",
        ),
        ("optax.incremental_update(params, state.ema", "optax.incremental_update(state.params, state.ema"),
    ),
    *faults(
        "cassr_jax/training/step.py",
        (STEP + "test_what_is_not_finite_leaves_all_but_the_count_as_it_was",),
        ("            & jnp.isfinite(optax.tree.norm(jax.lax.optimization_barrier(params)))\n", ""),
        ("            & jnp.isfinite(norm)\n", ""),
        ("TrainState(state.step + 1, *kept)", "TrainState(state.step + finite, *kept)"),
    ),
    *faults(
        "cassr_jax/training/step.py",
        (STEP + "test_each_example_draws_its_own_numbers",),
        ("jnp.arange(size))", "jnp.zeros(size, int))"),
    ),
    *faults(
        "cassr_jax/training/step.py",
        (STEP + "test_randomness_is_derived_from_the_seed_and_the_step",),
        ("jax.random.fold_in(seed_key(config.seed), state.step)", "seed_key(config.seed)"),
    ),
    *faults(
        "cassr_jax/training/step.py",
        (STEP + "test_the_state_is_donated_and_nothing_else",),
        ("donate_argnums=0", "donate_argnums=(0, 1)"),
        ("        donate_argnums=0,\n", ""),
    ),
    *faults(
        "cassr_jax/training/step.py",
        ("tests/training/test_division.py::test_parts_of_a_batch_average_to_the_whole",),
        ("jax.tree.map(lambda x: x / parts, total)", "total"),
        ("jax.tree.map(jnp.add, total, found)", "found"),
    ),
    *faults(
        "cassr_jax/training/state.py",
        ("tests/training/test_state.py",),
        ("optax.clip_by_global_norm(config.max_grad_norm)", "optax.clip(config.max_grad_norm)"),
        ("start, warmup = (0.0 if config.warmup_steps else peak)", "start, warmup = (0.0 if peak else peak)"),
        ("max(num_steps, warmup + 1), peak / 100", "max(num_steps, warmup + 1), 0.0"),
    ),
    *faults(
        "cassr_jax/training/previews.py",
        ("tests/training/test_export.py",),
        ('timestep_spacing="trailing")', "timestep_spacing=config.known_schedule.timestep_spacing)"),
        ("steps = min(SamplingConfig.num_steps, first)", "steps = SamplingConfig.num_steps"),
    ),
    *faults(
        "cassr_jax/training/validation.py",
        (VALIDATION + "test_the_measures_are_those_of_the_evaluation",),
        ("jnp.round((images.astype(jnp.float32) + 1) * 127.5)", "(images.astype(jnp.float32) + 1) * 127"),
        ("jnp.square(jnp.sum((made - true) * _LUMA, -1))", "jnp.sum(jnp.square((made - true) * _LUMA), -1)"),
        ("images / 127.5 - 1) for images", "images / 255) for images"),
    ),
    *faults(
        "cassr_jax/training/validation.py",
        (VALIDATION + "test_the_mean_is_over_all_batches",),
        ("np.mean([measures[name] for measures in found])", "found[0][name]"),
    ),
    *faults(
        "cassr_jax/training/monitor.py",
        (VALIDATION + "test_a_stopped_run_with_validation_is_the_run_without",),
        ("self._validation(state.ema, frozen)", "self._validation(state.params, frozen)"),
        ("(done % every == 0 or done == self._config.num_steps)", "done % every == 0"),
    ),
    *faults(
        "cassr_jax/training/validation.py",
        (VALIDATION + "test_eight_devices_measure_what_one_does_with_one_program",),
        ("    compiled = jax.jit(measure, out_shardings=placement.whole)\n", "    compiled = measure\n"),
    ),
    *faults(
        "cassr_jax/training/validation.py",
        (REFUSALS + "test_what_cannot_be_validated_on_is_refused",),
        ("len(sets) < count", "len(sets) < config.validation.records"),
        ("same_place(Path(path), Path(used))", "path == Path(used)"),
    ),
    *faults(
        "cassr_jax/training/checkpoint.py",
        ("tests/training/test_checkpoint.py::test_the_best_by_a_measure_is_kept_beside_the_newest",),
        ("value if self.high else -value", "-value"),
        ("-math.inf if math.isnan(value)", "math.inf if math.isnan(value)"),
    ),
    *faults(
        "cassr_jax/training/pace.py",
        ("tests/training/test_pace.py",),
        (" and alone < (1 - _SHARE) * seconds", ""),
        ("waited > _SHARE * seconds and ", ""),
        ("min(self._steps, default=math.inf)", "max(self._steps, default=math.inf)"),
        (" or True in self._said", ""),
    ),
    *faults(
        "cassr_jax/training/logs.py",
        ("tests/training/test_logs.py::test_a_pause_counts_for_no_step",),
        ("self._since += time.perf_counter() - before", "self._waited += time.perf_counter() - before"),
    ),
    *faults(
        "cassr_jax/training/resume.py",
        ("tests/training/test_resume.py::test_a_field_that_an_older_version_lacked_had_its_default",),
        ("for name, value in _DEFAULTS.items() if name in now}", "for name, value in _DEFAULTS.items() if not now}"),
    ),
    *faults(
        "cassr_jax/training/export.py",
        ("tests/training/test_export.py",),
        ("schedule=schedule_of(config)", "schedule=config.known_schedule"),
    ),
    *faults(
        "cassr_jax/training/export.py",
        (LOOP + "test_the_export_is_the_average",),
        ("state.ema if averaged else state.params", "state.params if averaged else state.ema"),
    ),
    *faults(
        "cassr_jax/training/export.py",
        (LOOP + "test_a_new_autoencoder_is_exported_with_a_scaling_factor_for_unit_latents",),
        ("jnp.var(mean) + jnp.mean(jnp.exp(logvar))", "jnp.var(mean)"),
    ),
    *faults(
        "cassr_jax/training/loop.py",
        (LOOP + "test_an_interrupted_run_goes_on_as_if_it_had_not_been",),
        (_SAVE + _LIMIT + _NEXT, _NEXT + _SAVE + _LIMIT),
        ("            data.stream.set_state(saved.data)\n", ""),
        ("step % config.save_every == 0", "(step + 1) % config.save_every == 0"),
    ),
    *faults(
        "cassr_jax/training/checkpoint.py",
        (LOOP + "test_a_kill_costs_no_more_than_it_may",),
        ("step + 1 - self._complete > most", "step - self._complete > most"),
    ),
    *faults(
        "cassr_jax/training/checkpoint.py",
        ("tests/training/test_frozen_origins.py",),
        ("        digest.update(np.ascontiguousarray(value).view(np.uint8).data)\n", ""),
        ('f"{name} {value.dtype} {value.shape}".encode()', 'f"{value.dtype} {value.shape}".encode()'),
    ),
    *faults(
        "cassr_jax/training/loop.py",
        (LOOP + "test_updates_that_stay_non_finite_end_the_run_with_what_made_them",),
        ("        monitor.before_step(state)\n", ""),
    ),
    *faults(
        "cassr_jax/training/guard.py",
        ("tests/training/test_guard.py",),
        (
            'self.in_a_row + 1 if metrics["skipped"] else 0',
            'self.in_a_row + 1 if metrics["skipped"] else self.in_a_row',
        ),
        ("if self.in_a_row < self.limit:", "if self.in_a_row <= self.limit:"),
        ("return self.in_a_row + 1 >= self.limit", "return self.in_a_row >= self.limit"),
        ('["batch"] * bool(batch)', '["batch"]'),
        ("        except InputError as error:\n", "        except ZeroDivisionError as error:\n"),
    ),
    *faults(
        "cassr_jax/training/logs.py",
        ("tests/training/test_logs.py",),
        ("        except (OSError, InputError) as error:\n", "        except InputError as error:\n"),
        ("if str(error) != self._warned:", "if True:"),
        ("        self._events.flush()\n", ""),
    ),
    *faults(
        "cassr_jax/training/step.py",
        ("tests/training/test_division.py::test_a_mesh_of_the_first_processs_devices_alone_is_refused",),
        ("if min(held) < max(held):", "if False:"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        (REFERENCES + "test_records_are_the_streams_pictures_with_latents_and_references",),
        ('"latents_std": jnp.exp(0.5 * logvar)', '"latents_std": jnp.exp(logvar)'),
        ("seed = (config.seed * 1_000_003 + first) % 2**63", "seed = config.seed"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        (REFERENCES + "test_a_grey_picture_has_a_grey_reference",),
        ("references = map(as_grey_as, np.asarray", "references = map(lambda lq, made: made, np.asarray"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        (REFERENCES + "test_networks_are_read_straight_to_all_devices_in_the_type_of_the_computation",),
        ("array.astype(jnp.dtype(config.dtype)), Named", "array, Named"),
        ("        digests.add(name, array)  # as", "        digests.add(name, array.astype(config.dtype))  # as"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        (REFERENCES + "test_every_batch_has_noise_of_its_own",),
        ("jax.random.fold_in(key_of_noise, number)", "jax.random.fold_in(key_of_noise, 0)"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        ("tests/first_stage/test_first_stages.py::test_training_pairs_and_the_cascade_make_the_same_reference",),
        (
            'first.reference(engine, to_float(batch["lr"]), lq), lq)',
            'first.reference(engine, to_float(batch["lr"]), lq), lq + 0.2)',
        ),
        ("self.modules[kind]((lr + 1) / 2) * 2 - 1", "self.modules[kind](lr) * 2 - 1"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        ("tests/first_stage/test_first_stages.py::test_pairs_are_sampled_as_the_cascade_samples",),
        ('None if self.sampling.start == "noise" else images[0]', "None"),
        ("tokenizer, recipe.sampling.prompts)", "tokenizer, recipe.sampling.prompts[::-1])"),
    ),
]
