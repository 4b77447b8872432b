"""`penstock model`: pack, inspect, verify, run and bench a bundle.

Owns arguments and words on the screen; each command calls one function of this floor. Heavy imports stand in the
commands, so that `--help` costs nothing. `--json` prints one JSON object; progress goes to standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Pack, inspect, verify, run and measure models.\n\n\b\nExample:\n  penstock model pack yolox_nano.onnx --preset yolox",
)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .bundle file or an unpacked folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model.toml, or an ONNX or TFLite file.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="A .bundle, or a folder for NAME-VERSION.bundle."),
    ],
    preset: Annotated[
        str | None,
        typer.Option(metavar="P", help="classification, yolox, rfb, autoencoder or raw."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Model name; the file's when left out.")
    ] = None,
    version: Annotated[int | None, typer.Option(metavar="V", help="Version, 1 when left out.")] = None,
    labels: Annotated[Path | None, typer.Option(metavar="F", help="Text file, one label a line.")] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option(metavar="F", help="Input to store with this model's answer; may be repeated."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Change a step, such as nms.iou=0.65; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle from a model file.

    \b
    Example:
      penstock model pack yolox_nano.onnx --preset yolox --labels coco80.txt --golden street.jpg -o models/
    """
    from penstock_models.bundle import open_bundle
    from penstock_models.console import working
    from penstock_models.pack import pack as make
    from penstock_models.vetting.vet import require_model

    with _reason_shown(as_json), working(f"packing {file.name}") as advance:
        path = make(
            file,
            out,
            preset=preset,
            name=name,
            version=version,
            labels=labels,
            golden=golden or (),
            sets=sets or (),
            advance=advance,
            vet=require_model,
        )
        bundle = open_bundle(path)
    if as_json:
        _print_json({"path": str(path), **_identity(bundle), "golden": len(bundle.manifest.golden)})
        return
    typer.echo(f"{path}  {bundle.digest}")
    if not bundle.manifest.golden:
        typer.echo("no golden samples: `verify` can check only the files; give some with --golden", err=True)


@app.command()
def inspect(bundle: BundlePath, as_json: Json = False) -> None:
    """Show what is in a bundle: tensors, steps, labels, golden samples.

    \b
    Example:
      penstock model inspect models/person-1.bundle
    """
    from penstock_models.console import describe
    from penstock_models.store import open_version

    opened = open_version(bundle)
    if as_json:
        _print_json({"digest": opened.digest, "manifest": msgspec.to_builtins(opened.manifest)})
    else:
        typer.echo(describe(opened))


@app.command()
def verify(bundle: BundlePath, as_json: Json = False) -> None:
    """Check digest, files and golden samples on this machine; exit code 1 on a no.

    \b
    Example:
      penstock model verify models/person-1.bundle
    """
    from penstock_models.console import working
    from penstock_models.trial import verify as check

    with working(f"verifying {bundle.name}") as advance:
        verdict = check(bundle, advance)
    if as_json:
        _print_json(msgspec.to_builtins(verdict))
    else:
        typer.echo(verdict.text())
    raise typer.Exit(0 if verdict.ok else 1)


@app.command()
def run(
    bundle: BundlePath,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT…", help="Pictures, or .npy, .csv, .json, .bin values: one stream, in order."
        ),
    ],
    save: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Draw the answer on the picture; with several pictures, a folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a model on files; exit code 1 where one has no answer.

    \b
    Example:
      penstock model run models/yolox_nano-1.bundle street.jpg --save out.png
    """
    from penstock_models.console import answer_line, progress
    from penstock_models.draw import require_pictures, save_all
    from penstock_models.trial import run_files

    if save is not None:
        require_pictures(inputs)
    with progress("running", len(inputs)) as advance:
        report = run_files(bundle, inputs, lambda: advance(1))
    if as_json:
        _print_json(report.plain())
    else:
        for path, outcome in report.outcomes:
            typer.echo(f"{path}: {answer_line(outcome)}")
    if save is not None:
        save_all(report.outcomes, save)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def bench(
    bundle: BundlePath,
    sample: Annotated[
        Path | None,
        typer.Option("--input", metavar="F", help="Input to run; the first golden sample when left out."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Time for each batch size.")] = 2.0,
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, max=64, help="Batch size, in place of 1, 2, 4 …; may be repeated."),
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Measure so many threads at once too.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Measure time, throughput and memory for each batch size, decoding and steps included.

    With --json the report is the device's profile for `penstock plan`; give --threads the gateway's threads there.

    \b
    Example:
      penstock model bench models/person-1.bundle --seconds 5
      penstock model bench models/person-1.bundle --threads 2 --json >> edge.json
    """
    from penstock_models.console import bench_table, progress
    from penstock_models.measure import measure

    with progress("measuring", 1) as advance:
        report = measure(bundle, sample, seconds, advance, batch or (), threads)
    if as_json:
        _print_json(msgspec.to_builtins(report))
    else:
        typer.echo(bench_table(report))


def _identity(bundle: Any) -> dict[str, Any]:
    return {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}


@contextmanager
def _reason_shown(as_json: bool) -> Iterator[None]:
    """Print the word of a refused model for machines; the error itself goes its usual way."""
    from penstock_models.errors import ModelRefused

    try:
        yield
    except ModelRefused as error:
        if as_json:
            _print_json({"error": str(error), "reason": error.reason})
        raise


def _print_json(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())
