"""Write scepter.npz: what SCEdit's published program predicts, by its own U-Net, tuners and control flow.

Run from the repository root with the extra `reference` and `einops` installed, and an unpacked source archive of
github.com/modelscope/scepter at COMMIT: `python -m tests.golden.make_scepter FOLDER COMMIT`. Only the numbers that it
gives and the names of its weights are kept.
"""

import json
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cassr_jax.weights.original import unet_names
from tests.narrow_denoisers import SCEPTER_TUNER, SCEPTER_UNET, scepter_inputs
from tests.random_weights import random_state_dict
from tests.references import give_weights, nchw, nhwc, randomise, shapes, unet


def scepter_networks(folder: Path) -> tuple[Any, Any]:
    """Its `DiffusionUNet` and `CSCTuners` at the widths of `SCEPTER_UNET` and `SCEPTER_TUNER`."""
    sys.path.insert(0, str(folder))
    # Imported at the head of a file of which nothing that needs it is called.
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = module_from_spec(ModuleSpec(name, None))
    warnings.filterwarnings("ignore")
    from scepter.modules.model.backbone.unet.unet_module import DiffusionUNet
    from scepter.modules.model.tuner.sce.scetuning import CSCTuners
    from scepter.modules.utils.config import Config

    width, *_ = SCEPTER_UNET.block_out_channels
    net = DiffusionUNet(
        Config(
            load=False,
            cfg_dict={
                "IN_CHANNELS": SCEPTER_UNET.in_channels,
                "OUT_CHANNELS": SCEPTER_UNET.out_channels,
                "MODEL_CHANNELS": width,
                "CHANNEL_MULT": [channels // width for channels in SCEPTER_UNET.block_out_channels],
                "NUM_RES_BLOCKS": SCEPTER_UNET.layers_per_block,
                "ATTENTION_RESOLUTIONS": [2],  # the second level alone
                "NUM_HEADS": SCEPTER_UNET.attention_head_dim,
                "CONTEXT_DIM": SCEPTER_UNET.cross_attention_dim,
            },
        ),
        logger=None,
    )
    tuners = CSCTuners(
        Config(
            load=False,
            cfg_dict={
                "INPUT_BLOCK_CHANS": net._input_block_chans,
                "INPUT_DOWN_FLAG": net._input_down_flag,
                "PRE_HINT_DIM_RATIO": SCEPTER_TUNER.hint_channels[0] / 16,
                "PRE_HINT_OUT_CHANNELS": SCEPTER_TUNER.hint_channels[-1],
                "DOWN_RATIO": SCEPTER_TUNER.ratio,
                "SCALE": SCEPTER_TUNER.control_scale,
                "SC_TUNER_CFG": {"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter"},
            },
        )
    )
    return net, tuners


def main(folder: Path, commit: str) -> None:
    net, tuners = scepter_networks(folder)
    diffusers_shapes = shapes(unet(SCEPTER_UNET))
    names = unet_names(diffusers_shapes)
    give_weights(net, {names[name]: value for name, value in random_state_dict(diffusers_shapes, seed=0).items()})
    net.control_blocks = torch.nn.ModuleList([randomise(tuners, seed=1)])

    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, change: Any = nhwc) -> Any:
        return lambda module, args, output: arrays.__setitem__(name, change(output))

    for i, block in enumerate(tuners.dense_hint_blocks):
        block.register_forward_hook(keep(f"hint.{i}"))
    # An output block is given what comes from below and the edited skip side by side, the deepest skip first.
    skips = net._input_block_chans
    for i, (block, channels) in enumerate(zip(net.output_blocks, reversed(skips), strict=True)):
        name = f"skip.{len(skips) - 1 - i}"
        block.register_forward_pre_hook(
            lambda _, args, n=name, c=channels: arrays.__setitem__(n, nhwc(args[0][:, -c:]))
        )
    given = scepter_inputs()
    with torch.no_grad():
        output = net(
            nchw(given.latents),
            torch.from_numpy(given.timesteps),
            {"crossattn": torch.from_numpy(given.context), "hint": (nchw(given.images) + 1) / 2},
        )
    arrays["prediction"] = nhwc(output)
    np.savez_compressed(
        Path(__file__).with_name("scepter.npz"),
        **arrays,
        shapes=json.dumps(shapes(tuners)),
        versions=json.dumps({"torch": torch.__version__, "scepter": commit}),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
