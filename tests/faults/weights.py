"""Faults in how weights are turned and named."""

from tests.faults.fault import faults

LOADING = "tests/weights/test_loading.py::"
UNET = ("tests/models/test_unet.py::test_equals_recorded_diffusers",)
NAMES = ("tests/weights/test_original.py",)

CONFIGS = ("tests/weights/test_configs.py",)

LORAS = ("tests/weights/test_lora.py",)

WEIGHTS = [
    *faults(
        "cassr_jax/weights/lora.py",
        LORAS,
        ('alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)', "alpha / rank"),
        ("np.float32(scale * self.factor)", "np.float32(self.factor)"),
        ("result = array.astype(np.float32)", "result = array.copy()"),
        ("in sorted(loras.items())", "in loras.items()"),
        ("if count[ours] > 1", "if False"),
        (" or not math.isfinite(found[0])", ""),
        ('.removesuffix(".0"): name for layer', ": name for layer"),
        ("in (names | original).items()", "in names.items()"),
    ),
    *faults(
        "cassr_jax/weights/orbax_state.py",
        ("tests/test_orbax_states.py",),
        ("if group and size + nbytes > _MOST:", "if False:"),
        ("            size += nbytes\n", ""),
        ("return to_torch(self.name, self.fetch(self.name))", "return self.fetch(self.name)"),
        (
            'raise _damaged(self.folder, f"{self.tree} cannot be read", error, self.expected) from error',
            "raise",
        ),
    ),
    *faults(
        "cassr_jax/weights/orbax_state.py",
        ("tests/training/test_stored.py",),
        ("            self.check(name, array)\n", "            pass\n"),
    ),
    *faults(
        "cassr_jax/conversion.py",
        ("tests/test_conversion.py", "tests/test_orbax_states.py"),
        ('write = files[kind].copy_state if layout == "orbax" else files[kind].copy', "write = files[kind].copy"),
        ("    _check_room(output, size)\n", ""),
        ("if is_file(output) != (layout ==", "if False and (layout =="),
        (".iterdir()} - _WRITTEN)", ".iterdir()} - {*_WRITTEN, 'mine.txt'})"),
        ('        check_outside(path, output, "what is to be replaced", why)\n', ""),
        (
            "        if is_folder(path):\n            check_outside(output, path",
            "        if False:\n            check_outside(output, path",
        ),
        ("all(getattr(schedule, name) == getattr(known, name) for name in TRAINED)", "True"),
        (
            "fields = Schedule().to_diffusers() if found.scheduler is None else dict(found.scheduler[0])",
            "fields = Schedule().to_diffusers()",
        ),
    ),
    *faults(
        "cassr_jax/weights/published.py",
        ("tests/test_conversion.py",),
        ("_PROJECTION.search(name) else array", "False else array"),
        ("np.isfinite(array) & ~np.isfinite(cast)", "~np.isfinite(array) & ~np.isfinite(cast)"),
    ),
    *faults(
        "cassr_jax/hub.py",
        ("tests/test_hub.py",),
        ("create_repo(repository, private=private, exist_ok=True)", "create_repo(repository, exist_ok=True)"),
        (" exist_ok=True)", ")"),
        ("folder_path=folder, allow_patterns=wanted,", "folder_path=folder,"),
        ('(("LoRA", source) for source in config.loras)', "()"),
        ("        if source in PUBLISHED:\n", "        if False:\n"),
    ),
    *faults(
        "cassr_jax/commands/settings.py",
        ("tests/end_to_end/test_sample_resumed.py", "tests/evaluation/test_loras.py"),
        ("if needed and not (config.loras or config.merged_loras) else", "if False else"),
    ),
    *faults(
        "cassr_jax/gathering.py",
        ("tests/test_hub.py",),
        ("        if any(same_place(file, other) for other in files):\n", "        if False:\n"),
    ),
    *faults(
        "cassr_jax/networks.py",
        LORAS,
        ("with_loras(kind_of(kind).open(source), kind, loras)", "kind_of(kind).open(source)"),
        ("with_loras(kind_of(kind).open(sources[kind]), kind, loras)", "kind_of(kind).open(sources[kind])"),
    ),
    *faults(
        "cassr_jax/commands/bundle.py",
        LORAS,
        ("components=components, loras={}, merged", "components=components, merged"),
    ),
    *faults("cassr_jax/commands/fingerprint.py", LORAS, ("{float(scale)} ", "")),
    *faults(
        "cassr_jax/weights/taesd.py",
        ("tests/weights/test_taesd.py",),
        ('"decoder": 1}', '"decoder": 0}'),
        ("if not is_file(file):", "if False:"),
    ),
    *faults(
        "cassr_jax/models/taesd.py",
        ("tests/models/test_taesd.py",),
        ("jnp.tanh(latents / _LARGEST) * _LARGEST", "latents"),
        ("(images + 1) / 2", "images"),
    ),
    *faults(
        "cassr_jax/models/checks.py",
        CONFIGS,
        ("not 1 <= number <= MOST_WIDTH", "not 0 <= number <= MOST_WIDTH"),
        ("if value == ():", "if False:"),
        ("any(width % divisor for width in widths)", "widths[-1] % divisor"),
        ("1 <= count <= MOST_LAYERS", "1 <= count"),
    ),
    *faults(
        "cassr_jax/models/unet.py",
        CONFIGS,
        ("if widths[0] % 2:", "if False:"),
        ("        check_widths(self)\n", ""),
        ("[*attended, widths[-1]]", "[widths[-1]]"),
    ),
    *faults("cassr_jax/models/vae.py", CONFIGS, ("if not least <= self.scaling_factor <= most:", "if False:")),
    *faults(
        "cassr_jax/weights/configs.py",
        CONFIGS,
        ("return 0 < value < math.inf", "return value > 0"),
        (
            "if (found := fields.data.get(name, expected)) != expected:",
            "if list(found := fields.data.get(name, expected)) != expected:",
        ),
    ),
    *faults(
        "cassr_jax/diffusion/schedule.py",
        ("tests/diffusion/test_schedule.py",),
        ("if not 0 <= self.steps_offset <", "if not self.steps_offset <"),
        ("bool(timesteps[0] < extent and", "bool("),
        ("timesteps[-1] >= 0 and ", ""),
        ("range(min(num_steps, extent + 1) - 1, 0, -1)", "range(1, num_steps)"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        ("tests/diffusion/test_schedule.py",),
        (
            "else round(sampling.strength * (schedule.num_train_timesteps - 1))",
            "else max(round(sampling.strength * (schedule.num_train_timesteps - 1)), sampling.num_steps)",
        ),
    ),
    *faults(
        "cassr_jax/loading.py",
        ("tests/test_schedules.py::test_a_schedule_too_short_for_the_configured_steps_is_refused_with_the_file",),
        ("            make_course(config.known_schedule, sampling)\n", "            pass\n"),
    ),
    *faults(
        "cassr_jax/weights/convert.py",
        UNET,
        ("return array.transpose(2, 3, 1, 0)", "return array.transpose(3, 2, 1, 0)"),
        ("if array.ndim == 4 else array.T\n\n\ndef to_torch", "if array.ndim == 4 else array\n\n\ndef to_torch"),
    ),
    *faults(
        "cassr_jax/weights/convert.py",
        (LOADING + "TestAutoencoderNames::test_new_and_old_names",),
        ("return array.transpose(3, 2, 0, 1)", "return array.transpose(3, 2, 1, 0)"),
    ),
    *faults(
        "cassr_jax/weights/layouts.py",
        (LOADING + "TestAutoencoderNames::test_new_and_old_names",),
        ('"to_q": "query", "to_k": "key"', '"to_q": "key", "to_k": "query"'),
    ),
    *faults(
        "cassr_jax/weights/original.py",
        NAMES,
        ("levels - 1 - int(level[1])", "int(level[1])"),
        ('f"input_hint_block.{2 * i + 2}" for i', 'f"input_hint_block.{2 * i + 1}" for i'),
        ("output_blocks.{number - 1}.{2 if attends else 1}", "output_blocks.{number - 1}.2"),
        ('"time_emb_proj": "emb_layers.1"', '"time_emb_proj": "in_layers.3"'),
    ),
    *faults(
        "cassr_jax/weights/rrdbnet.py",
        (
            "tests/weights/test_rrdbnet.py::test_prefers_the_average",
            "tests/weights/test_rrdbnet.py::test_safetensors",
        ),
        ('("params_ema.", "params.", "state_dict.")', '("params.", "params_ema.", "state_dict.")'),
        ('(r"model\\.3", "conv_up1")', '(r"model\\.3", "conv_up2")'),
        ('(r"model\\.8", "conv_hr")', '(r"model\\.8", "conv_last")'),
    ),
    *faults(
        "cassr_jax/weights/rrdbnet.py",
        ("tests/weights/test_rrdbnet.py::test_ncnn",),
        ("for b in range(blocks) for d in (1, 2, 3)", "for d in (1, 2, 3) for b in range(blocks)"),
    ),
    *faults(
        "cassr_jax/weights/ncnn.py",
        ("tests/weights/test_ncnn.py",),
        ("    offset += -offset % 4\n", ""),
        (
            "self.count // (self.out_channels * self.kernel[0] * self.kernel[1]), *self.kernel)",
            "self.count // (self.out_channels * self.kernel[0] * self.kernel[1]), *self.kernel[::-1])",
        ),
    ),
]
