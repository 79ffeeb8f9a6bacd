"""Faults that a careful person could make, and the tests that must fail for each."""

from tests.faults.control import CONTROL
from tests.faults.data import DATA
from tests.faults.engine import ENGINE
from tests.faults.evaluation import EVALUATION
from tests.faults.fault import faults
from tests.faults.imaging import IMAGING
from tests.faults.inference import INFERENCE
from tests.faults.planning import PLANNING
from tests.faults.runs import RUNS
from tests.faults.training import TRAINING
from tests.faults.weights import WEIGHTS

CASSR = ("tests/models/test_denoisers.py::test_predictions_equal_the_recorded[cassr]",)
NO_REFERENCE = ("tests/models/test_denoisers.py::test_each_ablation_equals_the_recorded[no_reference_attention]",)
SCEDIT = ("tests/models/test_denoisers.py::test_predictions_equal_the_recorded[scedit]",)
CONTROLNET = ("tests/models/test_denoisers.py::test_predictions_equal_the_recorded[controlnet]",)
CASCADE = ("tests/test_cascade_golden.py::test_both_stages_equal_the_recorded[controlnet]",)
SAMPLERS = ("tests/diffusion/test_samplers.py",)
COLOR = ("tests/imaging/test_color.py",)
TILING = ("tests/imaging/test_tiling.py",)
MEASURES = ("tests/evaluation/test_measures.py",)
RRDBNET = ("tests/models/test_rrdbnet.py",)

FAULTS = [
    # What comes with the weights.
    *faults(
        "cassr_jax/schedules.py",
        ("tests/test_schedules.py",),
        ("        return configured or Schedule()\n", "        return Schedule()\n"),
        ("        return Schedule.from_diffusers(fields, source)\n", "        return Schedule()\n"),
        ("        if ours != theirs:\n", "        if False:\n"),
        ("folder.parent for folder in folders if UNET", "folder for folder in folders if UNET"),
        ('"ztsnr" in marks,', "False,"),
    ),
    *faults(
        "cassr_jax/diffusion/schedule.py",
        ("tests/diffusion/test_schedule.py",),
        ('**_LEADING, "set_alpha_to_one": False', '**_LEADING, "set_alpha_to_one": True'),
        ("(signal - signal[-1]) * (signal[0]", "signal * (signal[0]"),
        ('.removeprefix("Flax")', ""),
    ),
    *faults(
        "cassr_jax/weights/hub.py",
        ("tests/weights/test_hub.py", "tests/test_hub.py"),
        ("posixpath.join(posixpath.dirname(folder), SCHEDULER)", "posixpath.join(folder, SCHEDULER)"),
        ("            faults[name] = _absent", "            pass; _absent"),
        ("        if not found and not is_hub_id(name):", "        if False:"),
        ("*map(escape, (group[0], *part.beside))", "*(group[0], *part.beside)"),
        ("elif part.scheduled and contents.reason:", "elif False:"),
    ),
    *faults(
        "cassr_jax/weights/transfer.py",
        ("tests/weights/test_hub.py", "tests/test_hub.py"),
        ("    if contents.reason:\n        return {}\n", ""),
        (" or (folder / name).stat().st_size != contents.sizes[name]", ""),
        ("            newest.write_text(commit)\n", "            pass\n"),
        ('"check the name, or log in with `hf auth login`"', '""'),
        ("            bar.n = total\n", ""),
    ),
    *faults(
        "cassr_jax/training/setup.py",
        ("tests/test_schedules.py",),
        ('and "unet" not in config.new', ""),
    ),
    *IMAGING,
    *faults(
        "cassr_jax/training/placing.py",
        ("tests/training/test_placing.py",),
        ("return self._placement.place({name: array", "return ({name: jax.numpy.asarray(array)"),
        ('with fitting(name, "divide the weights', 'with fitting("", "divide the weights'),
        ("self.encoder[path] = array", "self.encoder[path] = array.astype(jax.numpy.bfloat16)"),
        ("self.digests.add(name, array)", "self.digests.add(name, array.astype(jax.numpy.bfloat16))"),
        ('dtype = "float32"', "dtype = self._config.frozen_dtype"),
    ),
    *faults(
        "cassr_jax/networks.py",
        ("tests/test_networks.py::test_parameters_are_placed_in_the_order_of_their_names",),
        ("for name in sorted(weights.shapes)}", "for name in weights.shapes}"),
    ),
    *faults(
        "cassr_jax/networks.py",
        ("tests/test_networks.py::test_a_new_controlnet_without_an_encoder_to_start_as_is_refused",),
        ("                if not encoder:\n", "                if False:\n"),
    ),
    *faults(
        "cassr_jax/training/setup.py",
        ("tests/training/test_loop.py::test_a_new_controlnet_copies_a_new_unet_in_whatever_order_they_are_named",),
        ("*sorted(config.new, key=lambda kind: kind_of(kind).copies_encoder)", "*config.new"),
    ),
    *faults(
        "cassr_jax/networks.py",
        ("tests/training/test_placing.py",),
        ('encoder = encoder or select(self.params, "unet")', 'encoder = select(self.params, "unet")'),
        ("else jax.default_device(host())", "else nullcontext()"),
    ),
    *faults(
        "cassr_jax/loading.py",
        ("tests/training/test_placing.py",),
        ("jax.device_put(array, sharding)", "jax.device_put(array)"),
    ),
    *CONTROL,
    *ENGINE,
    *PLANNING,
    *INFERENCE,
    *TRAINING,
    *RUNS,
    *DATA,
    *EVALUATION,
    *WEIGHTS,
    *faults(
        "cassr_jax/fitting.py",
        ("tests/test_fitting.py",),
        ("pair.values[0] != pair.values[1]", "False"),
        ("(unet.cross_attention_dim, text.hidden_size)", "(text.hidden_size, text.hidden_size)"),
        ('for name in ("in_channels", "out_channels"):', 'for name in ("in_channels",):'),
        ("(config.own.factor, vae.factor)", "(vae.factor, vae.factor)"),
        (
            "if not isinstance(config, AttachedConfig):",
            "if kind not in ('controlnet', 'scedit'):",
        ),
        ('"layers_per_block", "up_block_types")', '"layers_per_block")'),
        ("(getattr(fusion, name), getattr(vae, name))", "(getattr(vae, name), getattr(vae, name))"),
        ("if value != _IMAGE_CHANNELS", "if False"),
    ),
    *faults(
        "cassr_jax/models/controlnet.py",
        ("tests/test_fitting.py",),
        ('"in_channels", "cross_attention_dim")', '"in_channels")'),
        ("2 ** (len(self.conditioning_embedding_out_channels) - 1)", "8"),
    ),
    *faults(
        "cassr_jax/loading.py",
        ("tests/test_fitting.py", "tests/test_prompts.py"),
        ("    check_fitting(configs, given)\n", ""),
        ('        prompt_ids(configs["text_encoder"], sources.get(TOKENIZER), sampling.prompts)\n', "        pass\n"),
    ),
    *faults(
        "cassr_jax/training/setup.py",
        ("tests/test_fitting.py",),
        ("            check_fitting(networks.configs | {kind: config.new[kind]}, config.components)\n", ""),
        ("            check_fitting(networks.configs, config.components)\n", ""),
    ),
    *faults(
        "cassr_jax/prompts.py",
        ("tests/test_prompts.py",),
        ("text_encoder.prompts.index(prompt)", "int(prompt == prompts[-1])"),
        (" and prompt not in text_encoder.prompts", " and False"),
        ("ids.max() >= text_encoder.vocab_size", "ids.max() > text_encoder.vocab_size"),
    ),
    *faults(
        "cassr_jax/config.py",
        ("tests/test_prompts.py",),
        ('self.negative_prompt if self.guided_steps else ""', "self.negative_prompt"),
    ),
    *faults(
        "cassr_jax/weights/layouts.py",
        ("tests/weights/test_single_files.py",),
        ('    _refuse_marked(names, source, "control_model.", _PARTS_OF_CONTROLNETS)\n', ""),
        ('    _refuse_marked(names, source, "model.diffusion_model.", _OTHER_UNETS)\n', ""),
        ("if {mark, prefix + mark} & names", "if {mark} & names"),
    ),
    *faults(
        "cassr_jax/models/denoisers.py",
        CASSR,
        ("self.attention.bind(lq, reference, self.switches,", "self.attention.bind(reference, lq, self.switches,"),
        ("    return lq + reference\n", "    return lq\n"),
        ("return (images + 1) / 2", "return images"),
        ("            h = h + _sum_pairs(control.middle)\n", ""),
        (
            "zip(*map(_split_pairs, control.features), strict=True)",
            "zip(*map(_split_pairs, control.residuals), strict=True)",
        ),
        ("jnp.concatenate([x] * (batch // len(x)))", "jnp.repeat(x, batch // len(x), axis=0)"),
        ("temb.control if len(temb.control) == 1 else _duplicate(temb.control)", "temb.control[:1]"),
    ),
    *faults(
        "cassr_jax/models/denoisers.py",
        CONTROLNET,
        ("self.unet.decode(h + middle, skips,", "self.unet.decode(h, skips,"),
        ("[skip + residual for skip, residual", "[skip - residual for skip, residual"),
    ),
    *faults(
        "cassr_jax/models/denoisers.py",
        SCEDIT,
        ("skips = self.tuner(skips, [_repeat", "self.tuner(skips, [_repeat"),
    ),
    *faults(
        "cassr_jax/models/multiple_attention.py",
        CASSR,
        ("pair.reference.key_value(reference_features[skip])", "pair.reference.key_value(lq_features[skip])"),
        ("return x + jnp.asarray(weight", "return jnp.asarray(weight"),
        ("self.attn(self.norm(x), key_value)", "self.attn(x, key_value)"),
        ("self.attn.key_value(self.norm_context(tokens))", "self.attn.key_value(tokens)"),
    ),
    *faults(
        "cassr_jax/models/multiple_attention.py",
        NO_REFERENCE,
        ("if switches.reference_attention else None", "if switches.lr_attention else None"),
    ),
    *faults(
        "cassr_jax/models/attention.py",
        CASSR,
        ("x = guide.before_self_attention(x)", "x = guide.after_self_attention(guide.before_self_attention(x))"),
        ("jax.nn.gelu(gate, approximate=False)", "jax.nn.gelu(gate, approximate=True)"),
        ("hidden, gate = jnp.moveaxis", "gate, hidden = jnp.moveaxis"),
        ("self.norm = GroupNorm(groups, features, eps=1e-6,", "self.norm = GroupNorm(groups, features, eps=1e-2,"),
    ),
    *faults(
        "cassr_jax/models/dot_product.py",
        ("tests/models/test_dot_product.py::test_the_pallas_kernel_equals_plain_products_forward_and_backward",),
        ("sm_scale=query.shape[-1] ** -0.5", "sm_scale=query.shape[2] ** -0.5"),
    ),
    *faults(
        "cassr_jax/models/dot_product.py", CASSR, ("query = query * head_dim**-0.5", "query = query * length**-0.5")
    ),
    *faults(
        "cassr_jax/models/scedit.py",
        ("tests/models/test_scedit.py::test_hints_edited_skips_and_prediction_equal_the_published_programs",),
        ("(hint + self.tuner_op(skip + hint))", "(self.tuner_op(skip + hint))"),
        ("self.tuner_op(skip + hint)", "self.tuner_op(skip)"),
        ("approximate=False", "approximate=True"),
        ("x = block[1](nnx.silu(x))", "x = block[1](x)"),
        ("scale = self.config.control_scale", "scale = 1.0"),
    ),
    *faults(
        "cassr_jax/models/layers.py",
        CASSR,
        ("jnp.concatenate([jnp.cos(angles), jnp.sin(angles)]", "jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]"),
        ("epsilon=1e-5,\n            use_fast", "epsilon=1e-3,\n            use_fast"),
        ("(nnx.silu(temb))", "(temb)"),
    ),
    *faults(
        "cassr_jax/models/vae.py",
        CASCADE,
        ("return self.moments(images)[0] * self.config.scaling_factor", "return self.moments(images)[0]"),
        ("latents / self.config.scaling_factor", "latents * self.config.scaling_factor"),
    ),
    *faults(
        "cassr_jax/diffusion/guidance.py", CASCADE, ("scale * (positive - negative)", "scale * (negative - positive)")
    ),
    *faults(
        "cassr_jax/diffusion/trajectory.py",
        SAMPLERS,
        ("1 / signal, -noise / signal", "1 / signal, noise / signal"),
        ("gain * (1 + slope), -gain * slope", "gain * (1 - slope), gain * slope"),
        ("next_noise / noise, next_signal - signal", "next_noise / noise, next_signal + signal"),
        ("0.5 * stride[1:] / stride[:-1]", "0.5 * stride[:-1] / stride[1:]"),
    ),
    *faults(
        "cassr_jax/imaging/color.py",
        COLOR,
        ("image + _blurred(source - image, levels)", "image + _blurred(image - source, levels)"),
        ("1 << level), -2, 1 << level", "1 << level), -2, 2 * level + 1"),
        ("/ image_std * source_std", "/ source_std * image_std"),
        ("0.5 * image + 0.25 * (before", "0.5 * image + 0.2 * (before"),
    ),
    *faults(
        "cassr_jax/imaging/tiling.py",
        TILING,
        ("(*range(0, size - tile, tile - overlap), size - tile)", "(*range(0, size - tile, tile - overlap),)"),
        ("for top in self.tops for left in self.lefts", "for left in self.lefts for top in self.tops"),
        ("window / total[positions], 0)", "window, 0)"),
    ),
    *faults(
        "cassr_jax/models/rrdbnet.py",
        RRDBNET,
        ("return x + 0.2 * self.conv5(h)", "return x + self.conv5(h)"),
        ("jax.nn.leaky_relu(x, 0.2)", "jax.nn.leaky_relu(x, 0.01)"),
        ("x.transpose(0, 1, 3, 5, 2, 4)", "x.transpose(0, 1, 3, 2, 4, 5)"),
        ("h = h + self.conv_body(self._blocks(h))", "h = self.conv_body(self._blocks(h))"),
    ),
    *faults(
        "cassr_jax/evaluation/statistics.py",
        MEASURES,
        ("defined.std(ddof=1) / math.sqrt(len(defined))", "defined.std(ddof=1)"),
        ("defined.std(ddof=1)", "defined.std()"),
        ("value > 0 if higher_is_better else value < 0", "value < 0 if higher_is_better else value > 0"),
        (
            "a - b for a, b in zip(values, baseline, strict=True)",
            "b - a for a, b in zip(values, baseline, strict=True)",
        ),
    ),
    *faults(
        "cassr_jax/evaluation/fidelity.py",
        ("tests/evaluation/test_fidelity.py",),
        ("np.array([65.481, 128.553, 24.966])", "np.array([24.966, 128.553, 65.481])"),
        (
            "np.round(a.astype(np.float64)), np.round(b.astype(np.float64))",
            "a.astype(np.float64), b.astype(np.float64)",
        ),
        ("np.maximum((2 * covariance + c2) / (a_var + b_var + c2), 0)", "(2 * covariance + c2) / (a_var + b_var + c2)"),
    ),
]
