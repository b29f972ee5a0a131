"""The command line: registers the commands, turns errors into one line on stderr and an exit code."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llcert.cli.commands.attack import attack
from llcert.cli.commands.certify import certify
from llcert.cli.commands.check import check
from llcert.cli.commands.finetune import finetune, train
from llcert.cli.commands.inspect import inspect
from llcert.cli.commands.plot import plot
from llcert.errors import LlcertError, NumericalError, Stopped
from llcert.machine.versions import VERSION

if TYPE_CHECKING:
    from llcert.machine.process_group import ProcessGroup

DONE, MISSED, BAD_INPUT, BUG, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141

_EPILOG = """[bold]Examples[/]

llcert certify models/digits_relu_theta.onnx

llcert certify net.onnx --data cifar10 --eps 36/255 --samples 500 --out runs/net

llcert certify net.onnx --out runs/net --resume

llcert attack net.onnx --data mnist --eps 1.58

llcert inspect net.onnx

llcert check runs/net/proof

llcert finetune models/digits_relu.onnx --out runs/digits

llcert train --recipe mnist-4c3f --out runs/mnist

[dim]Exit codes: 0 done, 1 --fail-under missed or a proof rejected, 2 bad input, 3 a bug in llcert, 130 interrupted.[/]
"""

app = typer.Typer(
    name="llcert",
    help="Certified robustness of trained networks: for which images does [bold]no[/] change of L2 length up to eps "
    "change the predicted class? From an ONNX file to a report, and to a network of which more can be said.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (certify, check, attack, inspect, finetune, train, plot):
    app.command(epilog="Documentation: docs/cli.md")(command)

# the base of every usage error; typer does not export it by name
_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llcert {VERSION}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. Every error ends in one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still shows the rest
    try:
        group = _group(sys.argv[1:] if arguments is None else arguments)
    except LlcertError as error:
        return _fail(str(error), BAD_INPUT, None)
    except KeyboardInterrupt:
        return INTERRUPTED
    code = _command(arguments, group)
    return code if group is None else group.leave(code)


def _command(arguments: Sequence[str] | None, group: ProcessGroup | None) -> int:
    """The exit code of the command, after printing its error, if any."""
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="llcert", standalone_mode=False, obj=group)
        sys.stdout.flush()
    except _UsageProblem as problem:
        message = cast(Any, problem).format_message()
        # without arguments the help was shown, and there is nothing to say
        return _fail(message.rstrip(".") + "; llcert --help tells more", BAD_INPUT, group) if message else BAD_INPUT
    except NumericalError as error:
        return _fail(str(error), BUG, group)
    except LlcertError as error:
        return _fail(str(error), BAD_INPUT, group)
    except Stopped as stopped:
        return stopped.code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        return _fail(str(error), BAD_INPUT, group)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed, and this needs it", BAD_INPUT, group)
    except Exception as error:
        if _out_of_memory(error):
            return _fail("out of memory; a smaller --batch-size or --samples may help", BAD_INPUT, group)
        told = "" if _debugging() else " (LLCERT_DEBUG=1 shows where)"
        return _fail(f"a bug in llcert, please report it: {type(error).__name__}: {error}{told}", BUG, group)
    return int(code or DONE)


def _group(arguments: Sequence[str]) -> ProcessGroup | None:
    """The processes that share the work of `llcert certify`, where there are several."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or "certify" not in arguments[:1]:
        return None
    from llcert.machine.process_group import join

    return join()


def _fail(message: str, code: int, group: ProcessGroup | None) -> int:
    """Prints an error, unless another process of the group has printed one before; the exit code."""
    if group is not None:
        first, code = group.stop(code)
        if not first:
            return code
    if _debugging():
        traceback.print_exc()
    line = " ".join(message.split())
    typer.echo("error: " + "".join(c if c.isprintable() else "?" for c in line), err=True)
    return code


def _out_of_memory(error: Exception) -> bool:
    from llcert.machine.memory import out_of_memory

    return out_of_memory(error)


def _debugging() -> bool:
    return os.environ.get("LLCERT_DEBUG", "") not in ("", "0")
