"""The `selfseg` command: registers the subcommands, turns errors into one message and exit code."""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console

from selfseg.cli import (
    classify,
    demo,
    evaluate,
    exchange,
    measure,
    plan,
    predict,
    pretrain,
    race,
    run,
    select,
    status,
    train,
)
from selfseg.errors import SelfSegError
from selfseg.execution.termination import EXIT_TERMINATED, end_when_asked

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
GOES_ON = {"train", "run", "race", "pretrain"}  # from what is kept of them

app = typer.Typer(
    name="selfseg",
    help="Self-configuring medical image segmentation: plan, train, select, predict, race.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"selfseg {metadata.version('selfseg')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("plan")(plan.plan)
app.command("pretrain")(pretrain.pretrain)
app.command("train")(train.train)
app.command("select")(select.select)
app.command("race")(race.race)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("measure")(measure.measure)
app.add_typer(
    classify.app, name="classify", help="Benign or malignant: a classifier of segmented lesions."
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("export")(exchange.export)
app.command("import")(exchange.import_)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line; a SelfSegError becomes a short message and exit code 2."""
    debug = "--debug" in sys.argv
    # Threads that spin while they wait make training two to four times slower as soon as another
    # program shares the cores (measured on two). Must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("selfseg").setLevel(logging.DEBUG if debug else logging.INFO)
    end_when_asked()
    try:
        app()
    except SelfSegError as error:
        if debug:
            raise
        _complain(error)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        if debug:
            raise
        remedy = "Check that the disk has space and the folder may be written; then run it again."
        _complain(SelfSegError(str(error), remedy=remedy))
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _tell_of_interruption()
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as stop:  # typer turns an interrupt into this
        if stop.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            _tell_of_interruption()
        raise


def _tell_of_interruption() -> None:
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in GOES_ON:
        how = "; the same command goes on where it stopped. Leave out --restart."
    elif command == "predict":
        how = "; the same command with --continue keeps what is segmented."
    else:
        how = "; run the same command again."
    sys.stderr.write(f"\nInterrupted{how}\n")


def _complain(error: SelfSegError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Error: {error.message}", style="red")
    if error.remedy:
        console.print(f"  → {error.remedy}", style="yellow")
