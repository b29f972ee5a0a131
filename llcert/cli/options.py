"""The options that commands share, each with its help. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

QUESTION, RUN, OUTPUT, EXPERT = "What is asked", "How it runs", "Where results go", "Experts"

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An [bold].onnx[/] file, or a [bold].pt2[/] saved by torch.export.")
]
Eps = Annotated[
    str | None,
    typer.Option(
        metavar="RADIUS",
        help="L2 radius in pixel units (pixels in [0, 1]): [bold]36/255[/] or [bold]0.141[/]. "
        "Default: what the model's metadata says.",
        rich_help_panel=QUESTION,
    ),
]
EpsFile = Annotated[
    str | None,
    typer.Option(
        "--eps-file",
        metavar="FILE",
        help="A radius for each image in place of --eps: text, one number or fraction a line, or an [bold].npy[/] "
        "vector; as many as the data set has images, or as are chosen.",
        rich_help_panel=QUESTION,
    ),
]
Target = Annotated[
    int | None,
    typer.Option(
        metavar="CLASS",
        help="Claim that the network never answers this class, in place of: it keeps answering the label. Images of "
        "the class are left out.",
        rich_help_panel=QUESTION,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Claim that the label stays among the K largest logits. Default: 1.",
        rich_help_panel=QUESTION,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="digits, mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet; or an .npz, .vnnlib or .parquet file, "
        "or a folder of class folders. Default: what the model's metadata says.",
        rich_help_panel=QUESTION,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where official data files lie or are downloaded to.", rich_help_panel=QUESTION),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="test or train, of a named data set. Default: test.", rich_help_panel=QUESTION),
]
Samples = Annotated[
    str | None,
    typer.Option(
        metavar="N|A:B", help="The first N images, or images A to B-1. Default: all.", rich_help_panel=QUESTION
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Comma list, one value a channel, subtracted from the pixels in front of the model; "
        "eps stays in pixel units.",
        rich_help_panel=QUESTION,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Comma list, one value a channel; pixels are divided by it.", rich_help_panel=QUESTION
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How the model wants its images: NCHW, NHWC or flat. Default: guessed and stated.",
        rich_help_panel=QUESTION,
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Comma list of global, local, attack, dual, boxes, branch; cheap ones run first. With local alone every "
        "image passes through it. Default: all but branch.",
        rich_help_panel=QUESTION,
    ),
]
Assurance = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="What backs a certificate: estimate (the literature's practice), probabilistic (norms hold with a stated "
        "probability) or deterministic (a proof). Default: deterministic.",
        rich_help_panel=QUESTION,
    ),
]
Semantics = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What a proof speaks of: float32 (the network as it is run, sums in any order, and in real numbers) or "
        "real (in real numbers alone). Default: float32.",
        rich_help_panel=QUESTION,
    ),
]
Delta = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Probability that a probabilistic certificate of one image is wrong. Default: 1e-9.",
        rich_help_panel=EXPERT,
    ),
]
ProofSeconds = Annotated[
    float | None,
    typer.Option(
        "--proof-seconds",
        metavar="S",
        help="Budget of an image's deterministic norms, at 10 billion operations a second; what takes more falls back "
        "on the whole layer's norm, of which all may take ten times as much once a network. Default: 10.",
        rich_help_panel=EXPERT,
    ),
]
BranchSeconds = Annotated[
    float | None,
    typer.Option(
        "--branch-seconds",
        metavar="S",
        help="Time an image may take in the stage branch. Default: 10.",
        rich_help_panel=EXPERT,
    ),
]
Radius = Annotated[
    bool | None,
    typer.Option(
        "--radius",
        help="Also search for the largest radius at which each image is certified, and draw the curve.",
        rich_help_panel=QUESTION,
    ),
]
RadiusTolerance = Annotated[
    float | None,
    typer.Option(
        "--radius-tolerance",
        metavar="X",
        help="How exact --radius is, as a share of the radius. Default: 0.01.",
        rich_help_panel=EXPERT,
    ),
]
ClipInput = Annotated[
    bool | None,
    typer.Option(
        "--clip-input",
        help="Claim less: only of changes that leave every pixel in [0, 1], or in --range.",
        rich_help_panel=QUESTION,
    ),
]
PixelRange = Annotated[
    str | None,
    typer.Option("--range", metavar="LOW,HIGH", help="What a pixel may be. Default: 0,1.", rich_help_panel=QUESTION),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Of attacks and of starting vectors. Default: 0.", rich_help_panel=RUN),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="auto, cpu or cuda. Default: auto.", rich_help_panel=RUN)
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="float32 or float64. Default: the model's own.", rich_help_panel=RUN),
]
BatchSize = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="Images a batch. Default: auto, by network and memory.", rich_help_panel=RUN),
]
Attack = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="targeted (PGD, and after the bounds a path to every class that is still open) or paper (PGD alone, as "
        "published figures have it). Default: targeted.",
        rich_help_panel=QUESTION,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--attack-steps", metavar="N", help="PGD steps of eps/4. Default: 100.", rich_help_panel=EXPERT),
]
Restarts = Annotated[
    int | None,
    typer.Option("--attack-restarts", metavar="N", help="Random starts of PGD. Default: 1.", rich_help_panel=EXPERT),
]
SolverName = Annotated[
    str | None,
    typer.Option(
        "--solver",
        metavar="NAME",
        help="What estimates norms: lanczos, or power (the paper's power iteration, far slower). Default: lanczos.",
        rich_help_panel=EXPERT,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--attack-patience",
        metavar="N",
        help="Steps without progress after which PGD gives an image up; 0: never. Default: 15.",
        rich_help_panel=EXPERT,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        metavar="X",
        help="Where the estimate of a norm stops: what one more iteration changes its vector by. Default: 0.0001.",
        rich_help_panel=EXPERT,
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        "--max-iterations",
        metavar="N",
        help="Most iterations for the estimate of a norm; after them the global norm stands in. Default: 1000 (power: "
        "5000).",
        rich_help_panel=EXPERT,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where the estimate of a norm starts: unmasked (the whole layer's singular vector, and noise), random, or "
        "saved (the first pass of an image lends its vectors to the second; power only). Default: unmasked.",
        rich_help_panel=EXPERT,
    ),
]
NoSelfCheck = Annotated[
    bool,
    typer.Option(
        "--no-self-check",
        help="Skip the attempt to contradict the first batch's bounds with points of its balls.",
        rich_help_panel=EXPERT,
    ),
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="The summary as JSON; - prints it alone.", rich_help_panel=OUTPUT),
]
