"""Record what transformers' `CLIPTextModel` gives on a narrow random network: `clip_text.npz`.

Run from the repository root with the extra `reference` installed: `python -m tests.golden.make_clip_text`.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.random_weights import random_state_dict

SEED = 0
CONFIG = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
}
ACTIVATIONS = ("quick_gelu", "gelu")


def main() -> None:
    ids = np.random.default_rng(SEED).integers(0, CONFIG["vocab_size"], (2, 77)).astype(np.int32)
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for hidden_act in ACTIVATIONS:
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CONFIG, hidden_act=hidden_act)).eval()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        state = random_state_dict(shapes, SEED)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        with torch.no_grad():
            arrays[hidden_act] = model(torch.from_numpy(ids).long()).last_hidden_state.numpy()
    np.savez_compressed(
        Path(__file__).with_name("clip_text.npz"),
        ids=ids,
        **arrays,
        config=json.dumps(CONFIG),
        shapes=json.dumps(shapes),
        seed=SEED,
        versions=json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}),
    )


if __name__ == "__main__":
    main()
