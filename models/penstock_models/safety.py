"""May a runtime see this model file at all? Decided from its bytes alone.

A runtime is foreign C++ code that reads what a file tells it to read, so external data, unknown operators and broken
files are refused before it is asked. `inspect` takes bytes and returns plain values, never raises and touches nothing,
so that it can also run in a limited child process. What a runtime finds wrong later is the runtime's own refusal.
"""

from __future__ import annotations

import msgspec

from penstock_models import onnx_file, tflite_file
from penstock_models.errors import ModelRefused
from penstock_models.onnx_file import MalformedFile, OnnxFacts

MAX_BYTES = 2 * 1024**3
# Domains whose operators ONNX Runtime registers by itself.
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
# Custom operators that LiteRT's built-in resolver knows.
TFLITE_CUSTOM = frozenset({"TFLite_Detection_PostProcess", "AudioSpectrogram", "Mfcc", "NumericVerify"})


class Verdict(msgspec.Struct, frozen=True):
    """`runtime` is "onnx" or "tflite" for a file that may be loaded; else `reason` and `message` say why not."""

    runtime: str = ""
    reason: str = ""
    message: str = ""


def check(data: bytes, filename: str) -> str:
    """The runtime for a model file: "onnx" or "tflite".

    Raises:
        ModelRefused: `reason` is one of `not_a_model, truncated, external_data, custom_op, bad_quantization`.
    """
    verdict = inspect(data, filename)
    if not verdict.runtime:
        raise ModelRefused(verdict.reason, f"{filename}: {verdict.message}")
    return verdict.runtime


def inspect(data: bytes, filename: str) -> Verdict:
    """The verdict on a model file. Goes by content; `filename` only words the message."""
    if message := _foreign(data):
        return Verdict(reason="not_a_model", message=message)
    try:
        return _tflite(data) if data[4:8] == b"TFL3" else _onnx(data, filename)
    except MalformedFile as error:
        reason = "truncated" if error.truncated else "not_a_model"
        hint = "; copy or download it again" if error.truncated else ""
        return Verdict(reason=reason, message=f"{error}{hint}")


def _foreign(data: bytes) -> str:
    """What a file is that is surely no model, "" where it may be one."""
    if not data:
        return "empty, expected an ONNX or TFLite model"
    if len(data) > MAX_BYTES:
        return f"{len(data)} bytes, at most {MAX_BYTES} are read"
    if data.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the model itself; fetch it with `git lfs pull`"
    if data.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "a zip or pickle (a PyTorch file?), which can carry code; export the model to ONNX or TFLite"
    if data.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras?); convert the model to TFLite"
    if _is_text(data[:512]):
        return "text, expected an ONNX or TFLite model"
    return ""


def _is_text(head: bytes) -> bool:
    """Printable throughout. An ONNX file starts with the byte 8, a TFLite file has zeros."""
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head) and _is_utf8(head)


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # only the last character is cut
    return True


def _tflite(data: bytes) -> Verdict:
    facts = tflite_file.scan(data)
    if facts.external:
        return Verdict(
            reason="external_data", message="weights in another file; pack them into the model file"
        )
    if unknown := sorted(facts.custom_operators - TFLITE_CUSTOM):
        return Verdict(
            reason="custom_op",
            message=f"custom operator {unknown[0]}, which the runtime does not have; use built-in operators",
        )
    if facts.bad_quantization:
        return Verdict(
            reason="bad_quantization", message=f"{facts.bad_quantization}; convert the model again"
        )
    if facts.subgraphs == 0:
        raise MalformedFile("a TFLite file without a graph")
    return Verdict(runtime="tflite")


def _onnx(data: bytes, filename: str) -> Verdict:
    try:
        facts = onnx_file.scan(data)
    except MalformedFile as error:
        # Every exporter writes ir_version first; anything else that fails never was ONNX.
        truncated = error.truncated and data[0] == 8 and not filename.lower().endswith(".tflite")
        raise MalformedFile(f"{error}; expected an ONNX or TFLite model", truncated=truncated) from error
    if facts.ir_version == 0:
        raise MalformedFile("neither ONNX (no ir_version) nor TFLite (no TFL3)")
    if not facts.has_graph or not facts.opset_domains:
        raise MalformedFile("an ONNX file without graph or operator set", truncated=True)
    return _onnx_contents(facts)


def _onnx_contents(facts: OnnxFacts) -> Verdict:
    if facts.external or ("com.microsoft", "EPContext") in facts.operators:
        name = min(facts.external, default="EPContext")
        return Verdict(
            reason="external_data",
            message=f"{name!r} lies in another file; save the model as one file (onnx.save without external data)",
        )
    known = facts.functions | {op for op in facts.operators if op[0] in ONNX_DOMAINS}
    if unknown := sorted(facts.operators - known):
        domain, operator = unknown[0]
        return Verdict(
            reason="custom_op",
            message=f"operator {domain}:{operator}, which the runtime does not have; use operators of ONNX itself",
        )
    return Verdict(runtime="onnx")
