"""What the plans in docs/plans say, drawn for docs/sharding.md: time, memory, and what devices send, for each strategy.

PYTHONPATH=. python docs/images/make_plans.py --output docs/images
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from cassr_jax.files import read_json
from cassr_jax.sharding.drawing import COLORS
from cassr_jax.sharding.planned import Plan

PLANS = Path(__file__).resolve().parents[1] / "plans"
ORDER = (  # so that a colour means the same in all rows
    *("computing", "waiting for other devices"),
    *("trained parameters", "optimizer", "average", "frozen parameters", "gradients", "activations"),
    *("all-gather", "reduce-scatter", "all-reduce"),
)
FILES = {"8 H200": "sd15_cassr_h200.json", "64 v5p": "sd15_cassr_v5p.json", "256 v5e": "sd15_cassr_v5e.json"}


def times(plan: Plan) -> dict[str, float]:
    """Milliseconds of a step."""
    found = plan.account.times
    assert found is not None, "the chips are known"
    waiting = found.collectives - found.hidden
    return {"computing": 1e3 * found.work, "waiting for other devices": 1e3 * waiting}


def memory(plan: Plan) -> dict[str, float]:
    """GiB on one device."""
    parts = plan.account.held | {"gradients": plan.gradients, "activations": plan.activations}
    return {name: value / 2**30 for name, value in parts.items()}


def sent(plan: Plan) -> dict[str, float]:
    """GiB in a step, by kind of collective."""
    found: dict[str, float] = defaultdict(float)
    for row in plan.account.traffic:
        found[row.kind] += row.nbytes / 2**30
    return dict(found)


def draw(axes: Axes, titles: Sequence[str], bars: Sequence[Mapping[str, float]], label: str) -> None:
    found = {name for parts in bars for name in parts}
    names = [name for name in ORDER if name in found] + sorted(found - {*ORDER})
    left = [0.0] * len(bars)
    for name, color in zip(names, COLORS, strict=False):
        widths = [parts.get(name, 0.0) for parts in bars]
        axes.barh(titles, widths, left=left, color=color, label=name)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_title(label, fontsize=10)
    axes.set_xlim(0, 1.05 * max(left))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder for plans.png")
    output = parser.parse_args().output
    figure, grid = plt.subplots(len(FILES), 3, figsize=(13, 3.2 * len(FILES)), layout="constrained")
    for row, (devices, file) in zip(grid, FILES.items(), strict=True):
        plans = [Plan.from_json(each) for each in read_json(PLANS / file)["plans"]]
        titles = [plan.strategy for plan in plans]
        draw(row[0], titles, list(map(times, plans)), f"{devices}: ms a step, by the published rates")
        draw(row[1], titles, list(map(memory, plans)), "GiB of memory on each device")
        draw(row[2], titles, list(map(sent, plans)), "GiB that a device sends or receives")
    figure.savefig(output / "plans.png", dpi=110)


if __name__ == "__main__":
    main()
