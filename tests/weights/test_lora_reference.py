"""LoRAs as torch diffusers and PEFT apply them, in every layout that they load and save."""

import copy
import re
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

import transformers  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402

from cassr_jax.models.parameters import merge, select  # noqa: E402
from cassr_jax.networks import Networks  # noqa: E402
from cassr_jax.weights.lora import open_loras  # noqa: E402
from tests import narrow, references  # noqa: E402
from tests.weights.loras import (  # noqa: E402
    CONFIGS,
    LAYOUTS,
    TEXT_LINEARS,
    UNET_CONVOLUTIONS,
    UNET_LINEARS,
    random_factors,
    save_lora,
    write_networks,
)

pytestmark = [
    pytest.mark.reference,
    # Diffusers' own use of what PEFT and transformers have deprecated since, and PEFT's advice on names.
    pytest.mark.filterwarnings("ignore"),
]

IDS = np.array([[0, 5, 3, 7, 19]], np.int32)
ATTENTION = r"attn\d\.to_(q|k|v|out\.0)"
GIVEN = narrow.inputs(CONFIGS["unet"].cross_attention_dim)
CALL = GIVEN.latents, GIVEN.timesteps, GIVEN.context


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def outputs(folder):
    """The outputs of both networks here, with some LoRAs."""

    def run(kind, graphdef):
        def unet(params, latents, timesteps, context):
            module = merge(graphdef, params)
            temb, text = module.embed_time(timesteps), module.text_key_values(context)
            h, skips = module.encode(latents, temb, text)
            return module.decode(h, skips, temb, text)

        return jax.jit(unet if kind == "unet" else lambda params, ids: merge(graphdef, params)(ids))

    def read(loras=None):
        networks = Networks()
        for kind in CONFIGS:
            networks = networks.with_read(kind, str(folder / kind), "float32", loras=open_loras(loras or {}))
        return networks

    runs = {kind: run(kind, graphdef) for kind, graphdef in read().graphdefs.items()}
    arguments = {"unet": CALL, "text_encoder": (IDS,)}

    def of(loras=None):
        params = read({str(file): scale for file, scale in (loras or {}).items()}).params
        return {kind: runs[kind](select(params, kind), *arguments[kind]) for kind in CONFIGS}

    return of


@pytest.fixture(scope="module")
def plain(outputs):
    return outputs()


@pytest.fixture(scope="module")
def networks(folder):
    """The networks in torch, which a test copies before it changes them."""
    return {
        "text_encoder": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "unet": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False),
    }


def pipeline(networks):
    return diffusers.StableDiffusionPipeline(
        vae=None,
        tokenizer=None,
        **copy.deepcopy(networks),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def torch_outputs(unet, text_encoder):
    latents, timesteps, context = references.nchw(CALL[0]), torch.from_numpy(CALL[1]), torch.from_numpy(CALL[2])
    return {
        "unet": references.nhwc(unet(latents, timesteps, context).sample),
        "text_encoder": text_encoder(torch.from_numpy(IDS)).last_hidden_state.numpy(),
    }


def of_diffusers(networks, loras, **options):
    pipe = pipeline(networks)
    names = [f"adapter_{number}" for number in range(len(loras))]
    for name, file in zip(names, loras, strict=True):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name, **options)
    pipe.set_adapters(names, list(loras.values()))
    return torch_outputs(pipe.unet, pipe.text_encoder)


def assert_equal_and_changed(found, expected, plain, kinds=("unet", "text_encoder")):
    errors = narrow.errors(found, expected)
    assert max(errors.values()) <= 1e-5, errors
    changes = narrow.errors(found, plain)
    assert all((changes[kind] > 0.01) == (kind in kinds) for kind in CONFIGS), changes


UNET = UNET_LINEARS
CASES = {
    "diffusers": (UNET, TEXT_LINEARS, None),
    "lora": (UNET, "fc1", None),
    "linear_layer": ("", TEXT_LINEARS, None),
    "oldest": (ATTENTION, "(q|k|v|out)_proj", None),
    "kohya": (f"{UNET}|{UNET_CONVOLUTIONS}", TEXT_LINEARS, 3.0),
    "original": (rf"{ATTENTION}|ff\.net\.(0\.proj|2)|proj_(in|out)", TEXT_LINEARS, 0.5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_diffusers_gives(networks, outputs, plain, tmp_path, layout):
    unet, text, alpha = CASES[layout]
    loras = {"text_encoder": random_factors("text_encoder", text, rank=3, alpha=alpha, seed=1)}
    if unet:
        loras["unet"] = random_factors("unet", unet, rank=3, alpha=alpha)
    if layout == "lora":  # for the text encoder these names were never diffusers' own
        del loras["text_encoder"]
    file = save_lora(tmp_path / "pytorch_lora_weights.safetensors", loras, layout)
    options = {"unet_config": networks["unet"].config} if layout == "original" else {}
    expected = of_diffusers(networks, {file: 0.7}, **options)
    assert_equal_and_changed(outputs({file: 0.7}), expected, plain, loras.keys())


def test_several_loras_are_added_up(networks, outputs, plain, tmp_path):
    one = {"unet": random_factors("unet", UNET_LINEARS)}
    other = {
        "unet": random_factors("unet", ATTENTION, rank=4, alpha=1.0, seed=2),
        "text_encoder": random_factors("text_encoder", TEXT_LINEARS, alpha=1.0, seed=3),
    }
    loras = {save_lora(tmp_path / "one.safetensors", one): 0.8}
    loras[save_lora(tmp_path / "other.safetensors", other, "kohya")] = -0.6
    assert_equal_and_changed(outputs(loras), of_diffusers(networks, loras), plain)


def randomised(model):
    """PEFT's adapters of a network, with random factors instead of zeros."""
    for number, (name, value) in enumerate(sorted(model.named_parameters())):
        if "lora_" in name:
            value.data = 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
    return model.eval()


LORA_CONFIGS = {
    "unet": peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_v", "to_out.0", "conv1", "proj_in", "conv_in"],
        rank_pattern={r".*\.attn2\.to_q": 2},
        alpha_pattern={"attn1.to_q": 1, r"^down_blocks\..*\.conv1": 3},
        use_rslora=True,
    ),
    "text_encoder": peft.LoraConfig(r=3, lora_alpha=2, target_modules=["q_proj", "fc2"]),
}


def test_what_peft_saves_is_read(networks, outputs, plain, tmp_path):
    pipe = pipeline(networks)
    models = {kind: randomised(peft.get_peft_model(getattr(pipe, kind), LORA_CONFIGS[kind])) for kind in CONFIGS}
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
    expected = torch_outputs(models["unet"].base_model.model, models["text_encoder"].base_model.model)
    assert_equal_and_changed(outputs({tmp_path / kind: 1 for kind in CONFIGS}), expected, plain)


def test_what_diffusers_saves_is_read_with_its_metadata(networks, outputs, plain, tmp_path):
    pipe = pipeline(networks)
    for kind, config in LORA_CONFIGS.items():
        randomised(getattr(pipe, kind)).add_adapter(config)
        randomised(getattr(pipe, kind))
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="default"),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
        unet_lora_adapter_metadata=LORA_CONFIGS["unet"].to_dict(),
        text_encoder_lora_adapter_metadata=LORA_CONFIGS["text_encoder"].to_dict(),
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    assert re.search(rb"lora_adapter_metadata.*use_rslora", file.read_bytes())
    found = outputs({tmp_path: 1})
    assert_equal_and_changed(found, torch_outputs(pipe.unet, pipe.text_encoder), plain)
    assert_equal_and_changed(found, of_diffusers(networks, {file: 1}), plain)
