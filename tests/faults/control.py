"""Faults in the control schemes and in PASD's networks."""

from tests.faults.fault import faults

PASD = ("tests/models/test_pasd.py",)
SCHEMES = ("tests/control/test_schemes.py",)

CONTROL = [
    *faults(
        "cassr_jax/models/pixel_attention.py",
        PASD,
        ("[contexts[skip] for _, skip in layers]", "[contexts[skip] for _, skip in layers[::-1]]"),
        ("return x + block.attn2_plus(block.norm2_plus(x), key_value)", "return x + block.attn2_plus(x, key_value)"),
        ("attn2_plus.key_value(self.proj_in_plus(context))", "attn2_plus.key_value(context)"),
        ("zero_out=True,\n                dtype", "zero_out=False,\n                dtype"),
    ),
    *faults(
        "cassr_jax/models/denoisers.py",
        PASD,
        ("return self.attention.bind(residuals)", "return None"),
        ("residuals, middle = _weighed(control, fidelity)", "residuals, middle = control.residuals, control.middle"),
        ("weight * control.middle", "control.middle"),
    ),
    *faults(
        "cassr_jax/models/controlnet.py",
        PASD,
        ("num_grow_ch=widths[0]", "num_grow_ch=32"),
        ("            if i % 2:\n", "            if not i % 2:\n"),
    ),
    *faults(
        "cassr_jax/sampling.py",
        PASD,
        ("signal[0] *= np.sqrt(schedule.alphas_cumprod[timestep])", "signal[0] *= schedule.alphas_cumprod[timestep]"),
        ("noise[0] = np.sqrt(1 - signal[0] ** 2)", "pass"),
    ),
    *faults(
        "cassr_jax/training/objectives.py",
        SCHEMES,
        ('"linear", antialias=False)', '"linear", antialias=True)'),
        ("embed_rgbs((lq + 1) / 2)", "embed_rgbs(lq)"),
        ("settings.rgb_weight * rgb_loss", "rgb_loss"),
    ),
    *faults(
        "cassr_jax/engine/engine.py",
        SCHEMES,
        ("stage.course._replace(fidelity=np.float32(stage.fidelity))", "stage.course"),
        ("(stage.make_denoiser, stage.sampling, stage.fidelity)", "(stage.make_denoiser, stage.sampling, 1.0)"),
    ),
    *faults(
        "cassr_jax/restoration.py",
        SCHEMES,
        ("return image if image.shape[:2] == size else resizing.bicubic(image, size)", "return image"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        SCHEMES,
        ("used = {*reads, start} if", "used = {*reads} if"),
    ),
    *faults("cassr_jax/imaging/resizing.py", SCHEMES, ("    if min(size) >= least:\n", "    if max(size) >= least:\n")),
    *faults("cassr_jax/training/export.py", SCHEMES, ("control=config.stage,", 'control="cassr",')),
]
