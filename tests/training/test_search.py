"""The search for a division: what fits and what it costs, by arithmetic on an outline with round numbers."""

from dataclasses import replace

import jax
import pytest

from cassr_jax.config import LossConfig, TrainConfig
from cassr_jax.config_files import read_config
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.strategies import STRATEGIES
from cassr_jax.training.outline import Outline, outline_of
from cassr_jax.training.search import Site, candidates, choices, ranking
from tests.training.runs import configure

G = 2**30
SLICE = (8, 8)
CONFIG = TrainConfig("cassr", DataConfig("unused"), batch_size=64, dtype="bfloat16")


def outline(numbers: float = 0.5 * G, kept: float = G) -> Outline:
    side = int((numbers / 2) ** 0.5) // 512 * 512
    shape = jax.ShapeDtypeStruct((side, side), "float32")
    return Outline(
        {f"controlnet.{i}.kernel": shape for i in range(2)},
        {"unet.0.kernel": jax.ShapeDtypeStruct((side, side), "bfloat16")},
        {"none": 4e12, "blocks": 5e12, "all": 6e12},
        {"none": 4 * kept, "blocks": kept, "all": 0.1 * kept},
        sums=0.5 * G,
        keys=0.2 * G,
    )


def test_what_does_not_fit_comes_last_and_what_is_computed_twice_after_what_fits():
    found = choices(CONFIG, outline(), Site(64, SLICE), CHIPS["v5e"])
    assert found[0].held <= CHIPS["v5e"].memory
    assert found[0].config.remat == "none"
    fits = [choice.held <= CHIPS["v5e"].memory for choice in found]
    assert fits == sorted(fits, reverse=True)
    large = choices(CONFIG, outline(kept=8 * G), Site(64, SLICE), CHIPS["v5e"])
    assert large[0].config.remat == "blocks"  # the first that fits


def test_a_batch_smaller_than_the_devices_leaves_only_what_shares_an_example():
    found = choices(replace(CONFIG, batch_size=16), outline(), Site(64, SLICE), CHIPS["v5e"])
    assert {choice.name for choice in found} == {"fsdp_tp of 4", "fsdp_tp of 8", "spatial of 4", "spatial of 8"}


def test_the_state_is_divided_as_the_strategy_says():
    found = {(c.name, c.config.remat): c for c in choices(CONFIG, outline(kept=0.0), Site(64, SLICE), CHIPS["v5p"])}
    held = sum(x.size for x in outline().trained.values())
    frozen = sum(x.size for x in outline().frozen.values())
    assert found["dp", "all"].held == held * 16 + frozen * 2
    assert found["zero1", "all"].held == held * (4 + 12 / 64) + frozen * 2
    gathered = 2 * (held + frozen)  # for the networks, in bfloat16
    assert found["fsdp", "all"].held == (held * 16 + frozen * 2) / 64 + gathered
    assert found["hybrid of 4", "all"].held == (held * 16 + frozen * 2) / 4 + gathered
    assert found["fsdp_2d of 4", "all"].held == found["fsdp", "all"].held


def test_weights_gathered_again_are_sent_twice_and_not_kept():
    found = {(c.name, c.config.remat): c for c in choices(CONFIG, outline(), Site(64, SLICE), CHIPS["v5p"])}
    once, again = found["fsdp", "blocks"], found["fsdp, gathered again", "blocks"]
    assert ("fsdp, gathered again", "none") not in found
    weights = 2 * sum(x.size for shapes in (outline().trained, outline().frozen) for x in shapes.values())
    assert once.held - again.held == weights  # in bfloat16
    dp = found["dp", "blocks"]  # sums gradients only, by twice what a scatter sends
    assert again.sent - once.sent == pytest.approx(once.sent - dp.sent / 2)


def test_slow_links_between_hosts_favour_what_stays_within_one():
    """Eight hosts of eight GPUs: weights gathered within a host cost less than over all of them."""
    chip = replace(CHIPS["h200"], network=5e9)
    far = {c.name: c for c in choices(CONFIG, outline(), Site(64, (8,)), chip) if c.config.remat == "none"}
    near = {c.name: c for c in choices(CONFIG, outline(), Site(64, (64,)), chip) if c.config.remat == "none"}
    assert far["hybrid of 8"].sent < far["fsdp"].sent
    assert far["fsdp"].sent > 2 * near["fsdp"].sent


def test_parts_of_gradients_are_summed_over_hosts_too():
    """By hand: a reduce-scatter among the eight GPUs of a host, then an all-reduce of an eighth among eight hosts."""
    chip = CHIPS["h200"]
    trained = sum(x.size for x in outline().trained.values())
    frozen = sum(x.size for x in outline().frozen.values())
    found = {c.name: c for c in choices(CONFIG, outline(), Site(64, (8,)), chip) if c.config.remat == "none"}
    gather, scatter = (2 * size * 7 / 8 / chip.link for size in (trained + frozen, trained))
    between = 2 * (2 * trained / 8) * 7 / 8 / chip.network
    assert found["hybrid of 8"].sent == pytest.approx(gather + scatter + between)


def test_a_slice_of_sixteen_a_side_closes_and_smaller_ones_do_not():
    sent = {}
    for side in (8, 16):
        batch = replace(CONFIG, batch_size=side**2)
        found = choices(batch, outline(), Site(side**2, (side, side)), CHIPS["v5e"])
        sent[side] = next(c.sent for c in found if c.name == "dp" and c.config.remat == "none")
    assert sent[8] == pytest.approx(sent[16] * (2 * 63 / 64) / (255 / 256))  # two links in place of four


def test_a_batch_that_nothing_divides_is_refused():
    with pytest.raises(
        InputError, match="batch_size is 64, expected one that a mesh of 24 devices divides, such as 72"
    ):
        choices(CONFIG, outline(), Site(24, (24,)), CHIPS["h200"])


def test_what_training_refuses_is_no_choice():
    """Every host needs a part of the batch, every slice a part of the first axis, and every part whole started ones."""
    hosts = choices(replace(CONFIG, batch_size=32), outline(), Site(64, SLICE, hosts=16), CHIPS["v5e"])
    assert {choice.name for choice in hosts} == {"fsdp_tp of 2", "fsdp_tp of 4", "spatial of 2", "spatial of 4"}
    with pytest.raises(InputError, match="a mesh of 64 devices on 16 hosts divides, such as 64"):
        choices(replace(CONFIG, batch_size=8), outline(), Site(64, SLICE, hosts=16), CHIPS["v5e"])
    slices = choices(CONFIG, outline(), Site(32, (2, 4), slices=4), CHIPS["v5e"])
    assert {choice.name for choice in slices if choice.name.startswith("hybrid")} == {"hybrid of 4", "hybrid of 8"}
    started = replace(CONFIG, batch_size=640, loss=LossConfig(start_fraction=3 / 640))
    large = choices(started, outline(kept=8 * G), Site(64, SLICE), CHIPS["v5e"])
    assert {choice.config.accumulate for choice in large} == {1}  # neither 2, 5 nor 10 divides three


def test_more_parts_scatter_more_and_sum_once():
    small, large = (
        {c.name: c for c in choices(CONFIG, outline(), Site(8, (8,)), chip) if c.config.remat == "none"}
        for chip in (CHIPS["h200"], replace(CHIPS["h200"], memory=20 * G))
    )
    parts = {name: (small[name].config.accumulate, large[name].config.accumulate) for name in ("dp", "zero2")}
    assert parts["zero2"][0] == 1 < parts["zero2"][1]
    assert small["dp"].sent == large["dp"].sent
    assert small["zero2"].sent < large["zero2"].sent


def test_float32_is_computed_at_its_own_rate():
    chip = replace(CHIPS["h200"], bandwidth=1e30, link=1e30, network=1e30)
    wide, narrow = (
        choices(replace(CONFIG, dtype=dtype), outline(), Site(8, (8,)), chip)[0] for dtype in ("float32", "bfloat16")
    )
    assert wide.seconds == pytest.approx(narrow.seconds * chip.flops / chip.flops_float32)


def test_groups_that_straddle_hosts_pay_for_it():
    """Groups of four on hosts of six: only pairs are sure to share one."""
    sent = {}
    for size in (6, 8):
        batch = replace(CONFIG, batch_size=48)
        found = choices(batch, outline(), Site(48, (size,)), CHIPS["h200"])
        sent[size] = {c.name: c.sent for c in found if c.config.remat == "none"}["hybrid of 4"]
    assert sent[6] > 2 * sent[8]


def test_one_device_has_one_way():
    assert {choice.name for choice in choices(CONFIG, outline(), Site(1, (1,)), CHIPS["h200"])} == {"dp"}


@pytest.mark.parametrize("batch", [64, 16])
def test_the_options_mean_the_choice(tmp_path, batch):
    file = tmp_path / "c.py"
    file.write_text(
        "from cassr_jax.config import TrainConfig\nfrom cassr_jax.data.config import DataConfig\n"
        f"config = TrainConfig('cassr', DataConfig('unused'), batch_size={batch}, dtype='bfloat16')"
    )
    for choice in choices(replace(CONFIG, batch_size=batch), outline(), Site(64, SLICE), CHIPS["v5e"]):
        _, name, _, *changes = choice.options.split()
        read = read_config(file, changes, STRATEGIES[name])
        mesh = {axis: size for axis, size in vars(read.strategy.mesh).items()}
        wanted = vars(choice.config.strategy.mesh)
        assert mesh == wanted, choice.options
        assert replace(read, strategy=choice.config.strategy) == choice.config
        assert replace(read.strategy, mesh=choice.config.strategy.mesh) == choice.config.strategy


def test_what_is_compiled_fits():
    found = choices(CONFIG, outline(kept=100 * G), Site(64, SLICE), CHIPS["v5e"])
    fitting = [choice for choice in found if choice.held <= CHIPS["v5e"].memory]
    assert 1 < len(fitting) < len(found)
    assert candidates(found, len(fitting), CHIPS["v5e"].memory) == fitting


def test_what_is_compiled_differs_in_remat_first():
    found = choices(CONFIG, outline(), Site(64, SLICE), CHIPS["v5e"])
    memory = CHIPS["v5e"].memory
    compiled = candidates(found, 4, memory)
    assert compiled[0] == found[0]
    for place in (1, 2):
        before = {choice.config.remat for choice in compiled[:place]}
        assert compiled[place] == next(choice for choice in found if choice.config.remat not in before)
    assert compiled[3] == found[1]
    assert candidates(found, 1, memory) == found[:1]
    assert len(candidates(found, len(found) + 5, memory)) == len(found)


def test_the_ranking_says_how_many_fit():
    found = choices(CONFIG, outline(kept=8 * G), Site(64, SLICE), CHIPS["v5e"])
    text = ranking(found, CHIPS["v5e"], rows=3)
    beyond = sum(choice.held > CHIPS["v5e"].memory for choice in found)
    assert text.startswith(f"{len(found)} ways to divide the step; {beyond} of them may hold more than 14.90 GiB.")
    assert found[0].says in text


def test_the_outline_of_a_narrow_step(networks):
    found = outline_of(configure("cassr", networks))
    assert found.flops["none"] < found.flops["blocks"] < found.flops["all"]
    assert found.kept["none"] > found.kept["blocks"] > found.kept["all"] > 0
    assert found.sums > 0
    assert found.keys > 0
    assert {name.partition(".")[0] for name in found.trained} == {"controlnet", "multiple_attention"}
