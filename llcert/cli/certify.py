"""`llcert certify`: options into a question, and what to do with the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llcert.cli import options as o
from llcert.question import Question, parse_batch_size, parse_list, parse_numbers

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for summary.json and samples.jsonl, written as images are decided.",
        rich_help_panel=o.OUTPUT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that lies in --out.", rich_help_panel=o.OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what lies in --out and --proof.", rich_help_panel=o.OUTPUT)
]
Proof = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for a certificate of every certified image that [bold]llcert check[/] verifies on its own.",
        rich_help_panel=o.OUTPUT,
    ),
]
Tsv = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="One line an image: idx label predict radius correct time, as in randomised smoothing.",
        rich_help_panel=o.OUTPUT,
    ),
]
FailUnder = Annotated[
    float | None,
    typer.Option(
        metavar="PCT", help="Exit code 1 where certified accuracy is below so many percent.", rich_help_panel=o.OUTPUT
    ),
]


def certify(
    context: typer.Context,
    model: o.Model,
    eps: o.Eps = None,
    eps_file: o.EpsFile = None,
    target: o.Target = None,
    top: o.Top = None,
    data: o.Data = None,
    data_root: o.DataRoot = None,
    split: o.Split = None,
    samples: o.Samples = None,
    mean: o.Mean = None,
    std: o.Std = None,
    layout: o.Layout = None,
    stages: o.Stages = None,
    assurance: o.Assurance = None,
    semantics: o.Semantics = None,
    radius: o.Radius = None,
    clip_input: o.ClipInput = None,
    pixel_range: o.PixelRange = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    proof: Proof = None,
    json: o.Json = None,
    tsv: Tsv = None,
    fail_under: FailUnder = None,
    attack: o.Attack = None,
    attack_steps: o.Steps = None,
    attack_restarts: o.Restarts = None,
    attack_patience: o.Patience = None,
    solver: o.SolverName = None,
    tolerance: o.Tolerance = None,
    max_iterations: o.Iterations = None,
    start: o.Start = None,
    delta: o.Delta = None,
    proof_seconds: o.ProofSeconds = None,
    branch_seconds: o.BranchSeconds = None,
    radius_tolerance: o.RadiusTolerance = None,
    no_self_check: o.NoSelfCheck = False,
) -> None:
    """How many images of a data set keep their class under [bold]every[/] change of L2 length up to eps.

    Stages run in turn and see what is still open: clean prediction, global bound, attack, local
    bound, backward pass, backward pass with boxes of its own.
    """
    question = Question(
        eps=eps,
        eps_file=eps_file,
        target=target,
        top=top,
        data=data,
        data_root=None if data_root is None else str(data_root),
        split=split,
        samples=samples,
        stages=None if stages is None else parse_list(stages),
        assurance=assurance,
        semantics=semantics,
        delta=delta,
        proof_seconds=proof_seconds,
        branch_seconds=branch_seconds,
        radius=radius,
        radius_tolerance=radius_tolerance,
        device=device,
        dtype=dtype,
        batch_size=None if batch_size is None else parse_batch_size(batch_size),
        seed=seed,
        mean=None if mean is None else parse_numbers(mean, "--mean"),
        std=None if std is None else parse_numbers(std, "--std"),
        layout=layout,
        clip_input=clip_input,
        attack=attack,
        pixel_range=pixel_range,
        steps=attack_steps,
        restarts=attack_restarts,
        patience=attack_patience,
        solver=solver,
        tolerance=tolerance,
        iterations=max_iterations,
        start=start,
    )
    from llcert.cli.running import Outputs, run
    from llcert.cli.sharing import share

    outputs = Outputs(
        out=out, resume=resume, overwrite=overwrite, proof=proof, json=json, tsv=tsv, fail_under=fail_under
    )
    group = context.obj
    if group is not None and not group.leads:
        raise typer.Exit(share(model, group, folder=out or Path(), self_check=not no_self_check))
    raise typer.Exit(run(model, question, outputs, self_check=not no_self_check, group=group))
