"""The verbs, and what holds for all of them."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ioaccel
from ioaccel.cli import bench, config, demo, doctor, du, evict, plan, serve, status, verify, warm
from ioaccel.cli.errors import complain, reported


class Verbs(TyperGroup):
    """All verbs; whatever one of them raises ends as one line and an exit code, a warning is one line."""

    def invoke(self, ctx: Any) -> Any:
        with reported(), warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # it needs no more arguments
            return super().invoke(ctx)


def _show_warning(message: Warning | str, *_: Any) -> None:
    complain(str(message))


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    # rich's help takes three times as long to appear, and a traceback is not what a person needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    demo.demo,
    bench.bench,
    warm.warm,
    status.status,
    du.du,
    verify.verify,
    evict.evict,
    serve.serve,
    config.config,
    doctor.doctor,
    plan.plan,
):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ioaccel {ioaccel.__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """A cache on this node's disks between training jobs and object stores.

    Exit codes: 0 done; 1 a check found something, or only a part was done; 2 the command line or the
    configuration makes no sense; 3 not found; 4 access denied; 5 the store failed; 6 the cache directory
    or the engine failed; 130 interrupted; 143 terminated.
    """
