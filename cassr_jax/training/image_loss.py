"""The distance between a decoded picture and its target, by pixels and by the features of a frozen VGG16."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cassr_jax.config import LossConfig, TrainConfig
from cassr_jax.models.discriminator import Discriminator
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.models.perceptual import lpips_between, lpips_features
from cassr_jax.training.stages import DISCRIMINATOR
from cassr_jax.typing import FeatureMap, Images, Metrics, Scalar


def needs_lpips(config: TrainConfig) -> bool:
    """Whether the stage's loss needs LPIPS's weights, `lpips.*`, beside the networks."""
    return _looks(config.loss) and bool(config.stage == "vae" or config.loss.image_weight)


def image_loss_of(
    config: LossConfig, graphdefs: Mapping[str, nnx.GraphDef], params: Params, decoded: Images, images: Images
) -> tuple[Scalar, Metrics]:
    """L1 + LPIPS on VGG16 + adversarial loss of pictures (B, S, S, 3) in [-1, 1]; terms without weight are left out.

    The discriminator's own loss is part of the sum; no gradient of one side reaches the other's parameters.
    """
    loss = l1 = jnp.mean(jnp.abs(decoded - images))
    metrics = {"l1": l1, "lpips": jnp.zeros(())}
    if not _looks(config):
        return loss, metrics
    weights = select(params, "lpips")
    fake, real = (lpips_features(weights, x, "vgg16", precision=None) for x in (decoded, images))
    if config.perceptual_weight:
        metrics["lpips"] = jnp.mean(lpips_between(weights, fake, real))
        loss += config.perceptual_weight * metrics["lpips"]
    if config.adversarial_weight:
        fooled, found = adversarial_losses(graphdefs[DISCRIMINATOR], select(params, DISCRIMINATOR), fake, real)
        metrics |= {"adversary": fooled, "discriminator": found}
        loss += config.adversarial_weight * fooled + found
    return loss, metrics


def adversarial_losses(
    graphdef: nnx.GraphDef[Discriminator], params: Params, fake: Sequence[FeatureMap], real: Sequence[FeatureMap]
) -> tuple[Scalar, Scalar]:
    """(the adversarial loss of `fake`, the discriminator's own hinge loss), each the mean over its heads.

    Each layer of an example is divided by its root mean square in `real`, which gives all layers the same size.
    """
    size = [jax.lax.rsqrt(jnp.mean(jnp.square(x), (1, 2, 3), keepdims=True) + 1e-12) for x in real]
    fake, real = ([x * s for x, s in zip(features, size, strict=True)] for features in (fake, real))
    shown = jax.lax.stop_gradient(fake)
    judge = merge(graphdef, params)
    found = [
        jnp.mean(nnx.relu(1 - a)) + jnp.mean(nnx.relu(1 + b)) for a, b in zip(judge(real), judge(shown), strict=True)
    ]
    fooled = [-jnp.mean(logits) for logits in merge(graphdef, jax.lax.stop_gradient(params))(fake)]
    return jnp.stack(fooled).mean(), jnp.stack(found).mean()


def _looks(config: LossConfig) -> bool:
    return bool(config.perceptual_weight or config.adversarial_weight)
