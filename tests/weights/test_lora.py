"""LoRA files: what they add to which layer, in every layout, and which files are refused."""

import json
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cassr_jax
from cassr_jax.commands import bundle
from cassr_jax.commands.fingerprint import fingerprint
from cassr_jax.commands.settings import loras_of
from cassr_jax.config_files import resolve_loras
from cassr_jax.errors import InputError
from cassr_jax.loading import read_cascade
from cassr_jax.models.parameters import select
from cassr_jax.networks import Networks
from cassr_jax.weights.convert import to_flax, torch_name
from cassr_jax.weights.lora import open_lora, open_loras
from tests.random_cascade import write_random_cascade
from tests.weights.loras import (
    CONFIGS,
    LAYOUTS,
    Factors,
    random_factors,
    save_lora,
    weight_shapes,
    write_networks,
)
from tests.weights.published import save

ALL = r"\w+"
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


def read(folder, loras=(), dtype=None):
    """The parameters of both networks with LoRAs, by kind."""
    networks, opened = Networks(), open_loras({str(file): scale for file, scale in dict(loras).items()})
    for kind in CONFIGS:
        networks = networks.with_read(kind, str(folder / kind), "float32", dtype, loras=opened)
    return {kind: {k: np.asarray(v) for k, v in select(networks.params, kind).items()} for kind in CONFIGS}


def expected(plain, loras, scale=1.0):
    """The parameters with `scale` times the LoRAs' products added, in float64."""
    result = {}
    for kind, params in plain.items():
        result[kind] = {name: value.astype(np.float64) for name, value in params.items()}
        for name, value in params.items():
            layer = torch_name(name).removesuffix(".weight")
            if layer in loras.get(kind, {}):
                result[kind][name] += scale * to_flax(name, loras[kind][layer].product, value.ndim)
    return result


def assert_close(found, wanted):
    for kind in CONFIGS:
        assert found[kind].keys() == wanted[kind].keys()
        for name, value in found[kind].items():
            np.testing.assert_allclose(value, wanted[kind][name], rtol=0, atol=1e-5, err_msg=name)


def both(layers=ALL, **options):
    return {kind: random_factors(kind, layers, **options) for kind in CONFIGS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_can_be_changed_in_every_layout(folder, tmp_path, layout):
    loras = both(alpha=None if layout == "diffusers" else 3.0)
    assert [len(loras[kind]) for kind in CONFIGS] == [len(weight_shapes(kind)) for kind in CONFIGS]
    found = read(folder, {save_lora(tmp_path / "a.safetensors", loras, layout): 0.7})
    assert_close(found, expected(read(folder), loras, 0.7))


def test_names_without_a_network_are_those_of_their_own_layers(folder, tmp_path):
    loras = both("to_q|q_proj")
    wanted = expected(read(folder), loras)
    for layout, outermost in (("oldest", ""), ("diffusers", "text_model.")):  # which transformers 5 leaves out
        tensors = {
            name.partition(".")[2].removeprefix(outermost): value for name, value in LAYOUTS[layout](loras).items()
        }
        assert_close(read(folder, {save(tmp_path / "a.safetensors", tensors): 1}), wanted)


def test_each_layer_has_its_own_rank_and_alpha(folder, tmp_path):
    unet = random_factors("unet", "to_q", rank=4, alpha=1.5) | random_factors("unet", "to_v", rank=3, alpha=2.0)
    loras = {"unet": unet | random_factors("unet", "conv1", rank=5)}
    assert_close(
        read(folder, {save_lora(tmp_path / "a.safetensors", loras, "kohya"): 1}), expected(read(folder), loras)
    )


def test_peft_s_settings_beside_the_file_give_alpha(folder, tmp_path):
    loras = {"unet": random_factors("unet", "to_q|to_k", rank=4)}
    tensors = {name.replace("unet.", "base_model.model.", 1): v for name, v in LAYOUTS["diffusers"](loras).items()}
    file = save(tmp_path / "adapter_model.safetensors", tensors)
    with pytest.raises(InputError, match=r"expected adapter_config\.json beside it"):
        open_lora(str(tmp_path))
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "alpha_pattern": {"attn2.to_q": 1}, "use_rslora": True}
    file.with_name("adapter_config.json").write_text(json.dumps(settings))
    wanted = {
        layer: factors._replace(alpha=2 * (1 if layer.endswith("attn2.to_q") else 6))  # 4 / sqrt(4)
        for layer, factors in loras["unet"].items()
    }
    assert_close(read(folder, {tmp_path: 1}), expected(read(folder), {"unet": wanted}))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_sum_is_made_in_float32_whatever_the_types(tmp_path, dtype):
    """Weights and factors in half precision, and a sum that is cast only afterwards."""
    folder = write_networks(tmp_path, dtype)
    loras = {
        kind: {name: Factors(f.down.astype(dtype), f.up.astype(dtype)) for name, f in layers.items()}
        for kind, layers in both().items()
    }
    file = save_lora(tmp_path / "a.safetensors", loras)
    found = read(folder, {file: 0.3})
    assert_close(found, expected(read(folder), loras, 0.3))
    assert {v.dtype for k, v in found["unet"].items() if k.endswith("kernel")} == {np.dtype(np.float32)}
    cast = read(folder, {file: 0.3}, jnp.bfloat16)
    for kind in CONFIGS:
        assert all(np.array_equal(v, found[kind][name].astype(v.dtype)) for name, v in cast[kind].items())


def test_only_the_layers_that_it_names_change(folder, tmp_path):
    loras = {"unet": {QUERY: random_factors("unet", "to_q")[QUERY]}}
    plain, found = read(folder), read(folder, {save_lora(tmp_path / "a.safetensors", loras): 1})
    changed = [k for kind in CONFIGS for k, v in found[kind].items() if not np.array_equal(v, plain[kind][k])]
    assert changed == [f"{QUERY}.kernel"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scales=st.lists(st.floats(-2, 2, width=16), min_size=2, max_size=3), data=st.data())
def test_loras_add_up_in_any_order(folder, tmp_path, scales, data):
    layouts = [data.draw(st.sampled_from(sorted(LAYOUTS))) for _ in scales]
    loras = [both("attn1.to_q|conv2|fc1", rank=1 + i, seed=i) for i in range(len(scales))]
    files = [
        save_lora(tmp_path / f"{i}.safetensors", lora, layout)
        for i, (lora, layout) in enumerate(zip(loras, layouts, strict=True))
    ]
    pairs = list(zip(files, scales, strict=True))
    found, other = read(folder, pairs), read(folder, data.draw(st.permutations(pairs)))
    for kind in CONFIGS:
        assert all(np.array_equal(value, other[kind][name]) for name, value in found[kind].items())
    wanted = read(folder)
    for lora, scale in zip(loras, scales, strict=True):
        wanted = expected(wanted, lora, scale)
    assert_close(found, wanted)


GOOD = {f"unet.{QUERY}.lora_A.weight": np.ones((2, 16)), f"unet.{QUERY}.lora_B.weight": np.ones((16, 2))}
KOHYA = "lora_unet_" + QUERY.replace(".", "_")


def sized(rank=2, ins=16, outs=16, layer=QUERY):
    return {f"unet.{layer}.lora_A.weight": np.ones((rank, ins)), f"unet.{layer}.lora_B.weight": np.ones((outs, rank))}


REFUSED = {
    "unknown keys": (
        GOOD | {"unet.a.weight": np.ones(1), "b": np.ones(1)},
        r"has unknown keys, expected pairs .*: unet\.a\.weight, b$",
    ),
    "a layer that is not there": (
        GOOD | sized(layer="mid_block.a") | sized(layer="mid_block.b"),
        r"2 tensors do not fit the model \(a unet\)\n  unexpected  unet\.mid_block\.a, .*\n  .* unet\.mid_block\.b",
    ),
    "another width": (sized(24), sized(ins=24), r"1 tensor .*\n  wrong shape .*to_q, found \(16, 24\), expected"),
    "Stable Diffusion 2's": (
        sized(ins=1024, layer=QUERY.replace("to_q", "to_k")),
        r"it is a LoRA for Stable Diffusion 2\)\n  wrong shape .*to_k, found \(16, 1024\), expected \(16, 6\)",
    ),
    "Stable Diffusion XL's": (
        sized(ins=2048, layer="down_blocks.1.attentions.0.transformer_blocks.7.attn2.to_v"),
        r"it is a LoRA for Stable Diffusion XL\)\n  unexpected",
    ),
    "XL's, by its second text encoder": (
        GOOD | {"lora_te2_text_model_x.lora_down.weight": np.ones((2, 3))},
        r"is a LoRA for Stable Diffusion XL or .* as its key 'lora_te2_text_model_x\.lora_down\.weight' says",
    ),
    "a transformer's": ({"transformer.x.lora_A.weight": np.ones((2, 3))}, "is a LoRA for a diffusion transformer"),
    "a LoHa": ({f"{KOHYA}.hada_w1_a": np.ones((2, 2))}, "is a LoHa, as its key"),
    "a LoKr": ({f"{KOHYA}.lokr_w1": np.ones((2, 2))}, "is a LoKr, as its key"),
    "a DoRA": (GOOD | {f"{KOHYA}.dora_scale": np.ones((16, 1))}, "is a DoRA, as its key"),
    "PEFT's DoRA": (GOOD | {f"unet.{QUERY}.lora_magnitude_vector": np.ones(16)}, "is a DoRA, as its key"),
    "three factors": ({f"{KOHYA}.lora_mid.weight": np.ones((2, 2, 3, 3))}, "a third factor, lora_mid, as its key"),
    "no partner": (
        GOOD | {f"{KOHYA}.lora_down.weight": np.ones((2, 16)), f"{KOHYA}.alpha": np.ones(()), "x.alpha": np.ones(1)},
        rf"has {KOHYA}\.lora_down\.weight, {KOHYA}\.alpha, x\.alpha without a partner",
    ),
    "ranks that differ": (
        {f"unet.{QUERY}.lora_A.weight": np.ones((2, 16)), f"unet.{QUERY}.lora_B.weight": np.ones((16, 3))},
        r"lora_A\.weight is \(2, 16\) and .*lora_B\.weight is \(16, 3\), expected \(rank, in\) and \(out, rank\)",
    ),
    "a second factor that is no 1x1 convolution": (
        {f"{KOHYA}.lora_down.weight": np.ones((2, 16, 1, 1)), f"{KOHYA}.lora_up.weight": np.ones((16, 2, 3, 3))},
        r"of which the second is 1x1",
    ),
    "no rank": (sized(rank=0), r"lora_A\.weight is \(0, 16\)"),
    "an infinite alpha": (GOOD | {f"unet.{QUERY}.alpha": np.array(np.inf)}, r"alpha holds inf, expected one finite"),
    "two alphas": (GOOD | {f"unet.{QUERY}.alpha": np.ones(2)}, r"alpha holds 1\.0, 1\.0, expected one finite number"),
    "integers": (
        GOOD | {f"unet.{QUERY}.lora_A.weight": np.ones((2, 16), np.int32)},
        r"holds .*lora_A\.weight \(int32\), expected floating-point weights",
    ),
    "a factor twice": (
        GOOD | {f"unet.{QUERY}.lora.down.weight": np.ones((2, 16))},
        r"has a second tensor for what .*lora_A\.weight holds, expected one of each",
    ),
    "nothing": ({}, "holds no tensors, expected pairs of LoRA factors"),
    "a layer twice": (
        GOOD | {f"{KOHYA}.lora_down.weight": np.ones((2, 16)), f"{KOHYA}.lora_up.weight": np.ones((16, 2))},
        r"names a layer in two ways, expected one: unet\.mid_block.*, lora_unet_mid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_all_that_is_wrong(folder, tmp_path, case):
    *_, tensors, message = REFUSED[case]
    file = save(tmp_path / "a.safetensors", {name: np.asarray(value) for name, value in tensors.items()})
    with pytest.raises(InputError, match=message) as error:
        read(folder, {file: 1})
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected LORA"),
        ({"use_dora": True}, "use_dora is true, expected a plain LoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the base too"),
        ({"lora_alpha": "4"}, "the alpha of .* is '4', expected a finite number"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern holds .\(., expected names"),
        ({"alpha_pattern": {"(.*a*)*z": 1}}, "expected names, of which"),
        ({"alpha_pattern": [1]}, "alpha_pattern cannot be read"),
    ],
)
def test_settings_of_peft_that_are_not_a_plain_lora_s(tmp_path, changes, message):
    save(tmp_path / "adapter_model.safetensors", {k.replace("unet.", "base_model.model."): v for k, v in GOOD.items()})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4} | changes))
    with pytest.raises(InputError, match=message):
        open_lora(str(tmp_path))


@pytest.mark.parametrize("scale", [np.inf, np.nan, "1", None])
def test_a_scale_is_a_finite_number(tmp_path, scale):
    with pytest.raises(InputError, match=r"the scale of .*a\.safetensors is .*, expected a number"):
        open_lora(str(save(tmp_path / "a.safetensors", GOOD)), scale)


def test_a_folder_holds_a_lora_under_its_usual_names(tmp_path):
    with pytest.raises(InputError, match="no such file or folder of a LoRA"):
        open_lora(str(tmp_path / "absent" / "a" / "b"))
    save(tmp_path / "style.safetensors", GOOD)
    with pytest.raises(InputError, match=r"holds no LoRA, .*; if style\.safetensors is meant, give that file"):
        open_lora(str(tmp_path))
    file = save(tmp_path / FILE, GOOD)
    assert open_lora(str(tmp_path)).path == file


def test_a_link_to_a_lora_is_read_by_the_links_name(tmp_path):
    save(tmp_path / "blob.safetensors", GOOD)
    (tmp_path / "blob.safetensors").rename(tmp_path / "blob")
    (tmp_path / "style.safetensors").symlink_to(tmp_path / "blob")
    (found,) = resolve_loras({"style.safetensors": 0.5}, tmp_path)
    assert open_lora(found).path == tmp_path / "style.safetensors"
    with pytest.raises(InputError, match=r"loras name blob twice, expected each once"):
        resolve_loras({"style.safetensors": 0.5, "blob": 1}, tmp_path)


def test_a_scale_that_overflows_is_named(folder, tmp_path):
    save(tmp_path / FILE, GOOD)
    with pytest.raises(InputError, match=r"is not finite with .*=1e\+39, expected smaller scales"):
        read(folder, {tmp_path / FILE: 1e39})


def test_a_bundle_names_what_is_merged(tmp_path):
    source = write_random_cascade(tmp_path / "cascade", activation="identity", loras={"own/lora.safetensors": 0.5})
    save(source / "own/lora.safetensors", GOOD)
    assert bundle.main(["--config", str(source), "--output", str(tmp_path / "out")]) == 0
    config, _ = read_cascade(tmp_path / "out")
    assert (config.loras, config.merged_loras) == ({}, {"lora.safetensors": 0.5})
    assert loras_of(config, {"speed": "lcm"}) == {}
    assert loras_of(read_cascade(source)[0], {"speed": "lcm"}) == {"own/lora.safetensors": 0.5}


def test_a_repository_of_the_hub_holds_a_lora(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    repository, commit = tmp_path / "models--someone--style", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    files = [
        save(repository / "snapshots" / commit / name, GOOD) for name in (FILE, f"deep/{FILE}", "deep/own.safetensors")
    ]
    sources = ("someone/style", "someone/style:deep", "someone/style:deep/own.safetensors")
    assert [open_lora(source).path for source in sources] == files
    with pytest.raises(InputError, match=r"someone/style:absent: .*its folder absent cannot be fetched"):
        open_lora("someone/style:absent")


@pytest.fixture
def cascade(tmp_path):
    """A random cascade, whose U-Net a LoRA beside it changes, and that LoRA."""
    write_random_cascade(tmp_path, loras={"style.safetensors": 0.5})
    layer = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
    factors = {
        f"unet.{layer}.lora_A.weight": np.ones((1, 16), np.float32),
        f"unet.{layer}.lora_B.weight": np.ones((16, 1), np.float32),
    }
    return tmp_path, save(tmp_path / "style.safetensors", factors), f"unet.{layer}.kernel"


def test_a_cascade_has_its_own_loras_or_those_of_the_call(cascade, tmp_path):
    folder, file, name = cascade
    half, whole, none = (
        np.asarray(cassr_jax.load(folder, **options).networks.params[name])
        for options in ({}, {"loras": {str(file): 1}}, {"loras": {}})
    )
    np.testing.assert_allclose(half - none, 0.5, atol=1e-6)
    np.testing.assert_allclose(whole - none, 1.0, atol=1e-6)
    with pytest.raises(InputError, match=r"absent\.safetensors: no such file or folder of a LoRA"):
        cassr_jax.load(folder, loras={"absent.safetensors": 1})


def test_a_bundle_holds_the_sum(cascade, tmp_path):
    folder, _, name = cascade
    output = tmp_path / "bundle"
    assert bundle.main(["--config", str(folder), "--output", str(output), "--dtype", "float32"]) == 0
    bundled, source = cassr_jax.load(output), cassr_jax.load(folder)
    assert bundled.config.loras == {}
    assert np.array_equal(bundled.networks.params[name], source.networks.params[name])


def test_the_fingerprint_knows_content_and_scale_but_not_the_place(cascade, tmp_path):
    folder, file, _ = cascade
    before = fingerprint(folder)
    moved = file.rename(tmp_path / "moved.safetensors")

    def of(scale):
        return fingerprint(folder, lambda config: replace(config, loras={str(moved): scale}))

    assert of(0.5) == before
    assert len({before, of(0.6), fingerprint(folder, lambda config: replace(config, loras={}))}) == 3
    save(moved, GOOD)
    assert of(0.5) != before
