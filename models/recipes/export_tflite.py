"""From a Keras model to a TFLite file that computes in int8 from end to end."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def int8_tflite(model: keras.Model, samples: Floats, input_type: str) -> bytes:
    """The model as full-int8 TFLite of batch 1.

    Args:
        model: one input and one output.
        samples: float inputs (n, …) that calibrate the activations.
        input_type: `uint8` or `int8`; the output is int8.
    """

    def representative() -> Iterator[list[Floats]]:
        for i in range(len(samples)):
            yield [samples[i : i + 1]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.dtypes.as_dtype(input_type)
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())
