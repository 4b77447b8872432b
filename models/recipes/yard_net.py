"""The detector's network: a small residual backbone, one step of feature pyramid, one output of YOLOX form.

`Size` is all there is to turn: a heavy twin is a larger `Size`. Only layers that `export_onnx` knows are used.
"""

from __future__ import annotations

import keras
import msgspec
from keras import KerasTensor, layers

STRIDES = (8, 16)
# The sigmoid of a box value is stretched to −2..2, so that boxes and scores share one int8 scale without loss.
BOX_SPAN = 4.0


class Size(msgspec.Struct, frozen=True):
    """`width` and `height` of the input in pixels, multiples of 16. `channels` after 2×, 4×, 8× and 16× reduction and
    `blocks` at 4×, 8× and 16×."""

    width: int = 192
    height: int = 144
    channels: tuple[int, int, int, int] = (16, 32, 64, 96)
    blocks: tuple[int, int, int] = (1, 2, 3)


def build(size: Size, classes: int) -> keras.Model:
    """Float input (n, height, width, 3) in 0..1 → (n, cells, 5 + classes), cells of `STRIDES` in row-major order.

    A row is x, y, log width, log height (in −2..2, as `decode_yolox` takes them), objectness and class scores in 0..1.
    """
    stem, low, mid, high = size.channels
    image = keras.Input((size.height, size.width, 3), name="image")
    x = _conv(_conv(image, stem, 3, 2), low, 3, 2)
    x = _stage(x, size.blocks[0])
    fine = _stage(_conv(x, mid, 3, 2), size.blocks[1])
    coarse = _stage(_conv(fine, high, 3, 2), size.blocks[2])
    coarse = _conv(coarse, mid, 1, 1)
    fine = _conv(layers.Add()([_conv(fine, mid, 1, 1), layers.UpSampling2D(2)(coarse)]), mid, 3, 1)
    logits = layers.Concatenate(axis=1)([_head(level, mid, 5 + classes) for level in (fine, coarse)])
    values = layers.Activation("sigmoid")(logits)
    scale = [BOX_SPAN] * 4 + [1.0] * (1 + classes)
    offset = [-BOX_SPAN / 2] * 4 + [0.0] * (1 + classes)
    return keras.Model(image, layers.Rescaling(scale, offset, name="predictions")(values))


def _conv(x: KerasTensor, channels: int, kernel: int, stride: int) -> KerasTensor:
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))


def _stage(x: KerasTensor, blocks: int) -> KerasTensor:
    """Bottlenecks of half the width, each added to what came in."""
    for _ in range(blocks):
        channels = x.shape[-1]
        x = layers.Add()([x, _conv(_conv(x, channels // 2, 1, 1), channels, 3, 1)])
    return x


def _head(x: KerasTensor, channels: int, values: int) -> KerasTensor:
    # A cell starts out 2 % sure: otherwise the many empty cells rule the first steps.
    prior = keras.initializers.Constant([0.0] * 4 + [-4.0] + [0.0] * (values - 5))
    x = layers.Conv2D(values, 1, bias_initializer=prior)(_conv(x, channels, 3, 1))
    return layers.Reshape((-1, values))(x)
