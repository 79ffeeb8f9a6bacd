"""Array types with named axes; a name means the same in the whole package.

Within a call each name stands for one size. The annotations cost users nothing: only the tests check them
(`tests/conftest.py`). `_` is an axis of any size, `...` any number of axes, and `#batch` either the batch or 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Float64, Int, Key, Real, Shaped, UInt8, UInt16

# Networks by kind, which decides the class of each; the type checker cannot follow that.
Modules = Mapping[str, Any]
Configs = dict[str, Any]

Device = Any  # a `jax.Device`, which the type checker takes for a variable

# Pictures and latents
Images = Float[Array, "batch height width 3"]
Pixels = UInt8[Array, "batch height width 3"] | UInt16[Array, "batch height width 3"]
Latents = Float[Array, "batch latent_height latent_width latent_channels"]
PerImage = Float32[Array, "batch"]

# Inside the networks
Features = Float[Array, "batch height width channels"]
FeatureMap = Float[Array, "batch _ _ _"]  # any resolution
FeatureList = list[FeatureMap]  # several resolutions
Tokens = Float[Array, "batch length channels"]
Context = Float[Array, "batch keys context_channels"]  # what keys and values are made from
AnyContext = Float[Array, "batch _ _"]  # of any number of keys and any width
KeyValue = tuple[Float[Array, "batch keys channels"], Float[Array, "batch keys channels"]]
AnyFloat = Float[Array, "..."]

# Conditions. A single time embedding serves a whole batch.
TokenIds = Int[Array | np.ndarray, "batch tokens"]
TextEmbedding = Float[Array, "batch tokens text_channels"]
PromptIds = Int[Array | np.ndarray, "2 _"]  # the negative prompt and the prompt; one number each for a learned context
PromptPair = Float[Array, "2 tokens text_channels"]
TimeEmbedding = Float[Array, "#batch time_channels"]
# A picture's features for one layer of the denoiser; under guidance two examples share a picture.
Hint = Float[Array, "pictures _ _ _"]
Timesteps = Real[Array, "batch"]  # whole numbers, except that Euler's may lie between two

# A sampling run
Step = Int[Array, ""]
Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
Column = Float32[Array | np.ndarray, "steps"]  # a value for every step
Coefficient = Float32[Array | np.ndarray, "*steps"]  # for one step or for every step
NumpyColumn = Float64[np.ndarray, "steps"]

# Training
Examples = Mapping[str, Shaped[Array, "batch ..."]]  # a batch, its arrays by name
HostExamples = Mapping[str, Shaped[np.ndarray, "batch ..."]]  # this process's part, before it is placed
Keys = Key[Array, "batch"]  # one for each example
Metrics = dict[str, Scalar]
