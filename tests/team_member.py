"""One of two processes that train together, started by tests/train/test_team.py: checks what it can see and says so.

Called with the folder of the test and two more ports; RANK, WORLD_SIZE and where to meet come from the environment, as
from torchrun.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from toy_runs import SMALL, Asked, Run, same, timeless_state

from llcert.cli import main as llcert
from llcert_train.budget import Budget
from llcert_train.loop import Step, train
from llcert_train.objective import Objective
from llcert_train.settings import Recipe
from llcert_train.task import Task
from llcert_train.team import Team, assembled
from llcert_train.trainer import Diverged

CPU = torch.device("cpu")


def primitives(team: Team) -> None:
    assert (team.size, team.leads) == (2, team.rank == 0)
    for flag in ((False, False), (True, False), (False, True), (True, True)):
        assert team.any(flag[team.rank], CPU) is any(flag)
    assert team.mean(torch.tensor([1.0 + team.rank, 5.0])).tolist() == [1.5, 5.0]
    assert team.agreed(7 + team.rank, CPU) == 7
    assert team.share(10) == 5


def everyone(value: Any) -> list[Any]:
    """The value of each process."""
    found: list[Any] = [None, None]
    dist.all_gather_object(found, value)
    return found


def alike(run: Run) -> None:
    """Both processes hold the same weights and the same state of the optimiser."""
    state = timeless_state(run.job)
    first, second = everyone({key: state[key] for key in ("step", "weights", "optimiser", "unmasked")})
    assert same(first, second)


def the_gradient_is_that_of_both_batches(question: Asked) -> None:
    """The averaged gradient, against one process that sees the images of both."""
    recipe = question.recipe.changed({"iterations": 300, "start": "random", "kappa": 0.4})
    trainer = replace(question, recipe=recipe).job().trainer
    seen = everyone(trainer.data.batch(trainer._places()))
    pictures = [{image.numpy().tobytes() for image in images} for images, _ in seen]
    assert not pictures[0] & pictures[1]
    trainer._gradient(trainer._measured(trainer._places(), 1.0).loss)
    images, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    leaves = trainer.weights.leaves
    alone = Objective(trainer.program, trainer.recipe, leaves)
    loss = alone(images, labels, trainer.schedule.radius(1.0), 0.4, trainer.unmasked, {}, 3).loss
    expected = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in expected)
    for leaf, gradient in zip(leaves.values(), expected, strict=True):
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        wanted = torch.zeros_like(leaf) if gradient is None else gradient
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def a_run_goes_on(question: Asked, folder: Path) -> None:
    straight = question.begun(folder / "straight").go()
    alike(straight)
    assert straight.job.trainer.plan.steps == straight.job.trainer.step == 10
    for stop in (3, 5):
        out = folder / f"stopped {stop}"
        first = question.begun(out).go(stop)
        dist.barrier()
        second = question.begun(out, resume=True)
        assert same(timeless_state(second.job), timeless_state(first.job))
        second.go()
        alike(second)
        assert same(timeless_state(second.job), timeless_state(straight.job))
        dist.barrier()
        assert second.lines == straight.lines
        dist.barrier()


def a_run_killed_between_two_checkpoints_goes_on(question: Asked, folder: Path) -> None:
    """The second process had not saved its last state yet, or none at all."""
    for saved in (0, 2):
        run = question.begun(folder / f"killed {saved}")
        for event in train(run.job.trainer, run.job.watch, run.folder):
            if isinstance(event, Step) and (event.done == saved or (event.done == 4 and question.team.leads)):
                run.folder.save(run.job.trainer.state())
            if isinstance(event, Step) and event.done == 4:
                break
        run.folder.close()
        dist.barrier()
        again = question.begun(folder / f"killed {saved}", resume=True)
        assert again.job.trainer.step == 4
        again.go()
        assert again.job.trainer.step == 10
        alike(again)
        dist.barrier()


def one_that_diverges_stops_both(question: Asked) -> None:
    trainer = question.job().trainer
    trainer.train_step()
    if question.team.rank == 1:
        with torch.no_grad():
            next(iter(trainer.weights.leaves.values())).fill_(float("nan"))
    try:
        trainer.train_step()
    except Diverged:
        return
    raise AssertionError("trained on with NaN")


def a_time_limit_is_planned_by_the_first(question: Asked) -> None:
    trainer = replace(question, recipe=question.recipe.changed({"minutes": 1.0})).job().trainer
    budget = Budget(60.0, ((1.0, 1.0 + question.team.rank),))
    assert budget.plan(trainer).steps == 60


TRAIN = (
    *("train", "mlp", "--data", "digits", "--eps", "0.5", "--epochs", "6", "--batch", "128", "--held-out", "20"),
    *("--attack-steps", "2", "--evaluate", "100", "--device", "cpu", "--stages", "global,local", "--keep-vectors"),
)


def the_command_line_refuses_an_odd_batch(folder: Path) -> None:
    """Each process says so in one line, and nothing is written."""
    with redirect_stderr(io.StringIO()) as printed:
        code = llcert([*TRAIN, "--batch", "63", "--out", str(folder / "odd")])
    assert code == 2
    assert printed.getvalue() == "error: batch 63: cannot be shared by 2 processes; give a multiple\n"
    assert not (folder / "odd").exists()


def the_command_line_is_interrupted(folder: Path) -> None:
    """By a signal to the second process, after two epochs: both stop after the same step."""
    metrics = folder / "digits" / "metrics.jsonl"

    def interrupt() -> None:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    if os.environ["RANK"] == "1":
        threading.Thread(target=interrupt, daemon=True).start()
    with redirect_stderr(io.StringIO()) as printed:
        code = llcert([*TRAIN, "--out", str(folder / "digits")])
    assert code == 130, printed.getvalue()
    assert ("interrupted after step" in printed.getvalue()) is (os.environ["RANK"] == "0")


def main(folder: Path, *ports: str) -> None:
    with assembled(CPU) as team:
        recipe = Recipe(**{**SMALL, "data": str(folder / "data.npz")})
        question = Asked(Task(folder / "model.onnx", device="cpu"), recipe, team)
        primitives(team)
        the_gradient_is_that_of_both_batches(question)
        a_run_goes_on(question, folder)
        orthogonal = recipe.changed({"arch": "tiny-conv", "orthogonal": True, "loss": "gloro", "epochs": 1})
        alike(replace(question, task=Task(None, device="cpu"), recipe=orthogonal).begun(folder / "orthogonal").go())
        phases = recipe.changed({"loss": "gloro", "last_loss": "local-lip-b", "last_share": 0.5})
        alike(replace(question, recipe=phases).begun(folder / "phases").go())
        a_run_killed_between_two_checkpoints_goes_on(question, folder)
        a_time_limit_is_planned_by_the_first(question)
        one_that_diverges_stops_both(question)
    for port, check in zip(
        ports, (the_command_line_refuses_an_odd_batch, the_command_line_is_interrupted), strict=True
    ):
        os.environ["MASTER_PORT"] = port
        check(folder)
    print("all is well")


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
