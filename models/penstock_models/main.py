"""The root command `penstock`: finds its groups by entry points and imports only the one that is called.

Owns the exit codes (0 done, 1 the verdict is no, 2 usage or configuration, 130 interrupted) and the one-line errors of
every command. A group's options and texts are the group's own. Started often on small boxes, so this module imports
nothing but the standard library before it knows what is wanted.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

GROUPS = "penstock.commands"
DISTRIBUTION = "penstock"
INTERRUPTED = 130

# Said here, so that `penstock --help` imports no group.
_SUMMARIES = {
    "camera": "publish a real camera as a stream",
    "cloud": "serve models to gateways and other clients",
    "demo": "see everything work on this machine",
    "fleet": "publish model versions and roll them out",
    "gateway": "run a gateway, check its configuration",
    "model": "pack, inspect, verify, run and measure models",
    "plan": "which models, where, at which batch sizes",
    "sim": "virtual devices, loads and faults",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; entry point of `penstock`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_debug(words)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left; there is nobody to tell, and flushing at exit would say so again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"penstock: {_one_line(error)}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))


def _take_debug(words: list[str]) -> bool:
    """Take `--debug` out of the words; PENSTOCK_DEBUG=1 says the same."""
    own = words[: words.index("--")] if "--" in words else words
    given = "--debug" in own
    if given:
        words.remove("--debug")
    return given or os.environ.get("PENSTOCK_DEBUG", "") not in ("", "0")


def _run(words: list[str]) -> int:
    match words:
        case [] | ["--help" | "-h", *_]:
            print(_help())
            return 0 if words else 2
        case ["--version", *_]:
            print(f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}")
            return 0
    name, *rest = words
    groups = _groups()
    if name not in groups:
        print(f"penstock: no command {name!r}; there are {', '.join(groups)}", file=sys.stderr)
        return 2
    with _needs(name):
        return _call(groups[name].load(), name, rest)


def _groups() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in sorted(metadata.entry_points(group=GROUPS))}


def _help() -> str:
    groups = _groups()
    width = max(map(len, groups), default=0)
    lines = [f"  {name:<{width}}  {_SUMMARIES.get(name, point.value)}" for name, point in groups.items()]
    return "\n".join(
        [
            "Usage: penstock COMMAND …",
            "",
            "Frames in over MQTT, answers out, on real models.",
            "",
            "Commands:",
            *lines,
            "",
            "Options:",
            "  --version  print the version",
            "  --debug    show the traceback of an error (or PENSTOCK_DEBUG=1)",
            "  --help     print this; `penstock COMMAND --help` says more",
            "",
            "Example: penstock model run person-1.bundle photo.jpg --save out.png",
        ]
    )


@contextmanager
def _needs(name: str) -> Iterator[None]:
    """Imports of a group or of what it calls, some of which an extra brings.

    Raises:
        UsageError: a package is missing; the message names what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from penstock_models.errors import UsageError

        module = (error.name or "").partition(".")[0]
        if not module or module.startswith("penstock_"):
            raise
        raise UsageError(f"`penstock {name}` needs {module}: {_install_hint(module)}") from error


def _install_hint(module: str) -> str:
    """Which extra brings a module, by the distribution's own requirements."""
    for requirement in metadata.requires(DISTRIBUTION) or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("-", "_")
        if extra and package.startswith(module.lower()):
            return f"pip install '{DISTRIBUTION}[{extra[1]}]'"
    return f"it is missing from this environment; pip install {module}"


def _call(group: Any, name: str, words: list[str]) -> int:
    """Run a group's command line with our exit codes and errors instead of the library's."""
    import typer
    from typer.main import get_command

    if not isinstance(group, typer.Typer):
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command()(group)
        group = single
    try:
        code = get_command(group).main(args=words, prog_name=f"penstock {name}", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _show_usage(error)
        return 2
    return code if isinstance(code, int) else 0


def _show_usage(error: Any) -> None:
    """A usage error of the command line library, in one line; a group without a command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    context = getattr(error, "ctx", None)
    command = context.command_path if context else DISTRIBUTION
    text = " ".join(error.format_message().split()).rstrip(".")
    print(f"{command}: {text}; `{command} --help` says more", file=sys.stderr)


def _one_line(error: Exception) -> str:
    from penstock_models.errors import PenstockError

    text = " ".join(str(error).split())
    if isinstance(error, PenstockError):
        return text
    return f"{type(error).__name__}: {text} (unexpected; --debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
