"""The trainer: runs that go on bit for bit, runs that learn, runs that diverge, and what each step is asked."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_runs import Run, asked, noted_calls, same, timeless_copy, timeless_state

import llcert_train.warm_start
from llcert.bounds import global_bound
from llcert.errors import InvalidInput
from llcert.ops import Clamp
from llcert_train.metrics import Epoch
from llcert_train.objective import Objective
from llcert_train.settings import Loss
from llcert_train.trainer import Diverged, Trainer

WAYS: dict[str, dict[str, Any]] = {
    "saved starts": {"loss": "local-lip-b"},
    "random starts": {"loss": "local-lip-b", "start": "random"},
    "saved starts in bfloat16, kappa, sparsity": {
        "loss": "local-lip-b",
        "warm_type": "bfloat16",
        "kappa": 0.3,
        "sparsity": 0.1,
    },
    "gloro": {"loss": "gloro"},
    "standard": {"loss": "standard"},
    "emma, gradients cut": {"loss": "emma", "clip_gradient": 0.1},
    "crop and flip": {"loss": "local-lip-b", "crop": 1, "flip": True},
    "clipped MaxMin": {"loss": "local-lip-b", "activation": "maxmin-clipped"},
    "MaxMin": {"loss": "emma", "activation": "maxmin", "ball": "product"},
    "averaged": {"loss": "gloro", "average": 0.8},
    "LipLT": {"loss": "crm", "ball": "liplt"},
    "LipLT, one iteration": {"loss": "crm", "ball": "liplt", "iterations": 1, "activation": "keep"},
    "product, one iteration": {"loss": "emma", "ball": "product", "iterations": 1},
    "global, then local": {"loss": "gloro", "last_loss": "local-lip-b", "last_share": 0.6},
    "LipLT, then the product": {"loss": "crm", "ball": "liplt", "last_ball": "global", "last_share": 0.3},
    "clean, then LipLT": {"loss": "standard", "last_loss": "crm", "last_ball": "liplt", "last_share": 0.5},
    "local, then local": {"loss": "local-lip-b", "last_loss": "emma", "last_share": 0.5},
    "orthogonal": {"loss": "gloro", "new": True, "arch": "tiny-conv", "orthogonal": True, "rate": 0.05},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_is_the_run_that_was_left_alone(way: str, tmp_path: Path) -> None:
    """Stopped in an epoch and at its end: weights, optimiser, warm starts and metrics alike."""
    question = asked(tmp_path, **WAYS[way])
    straight = question.begun(tmp_path / "straight").go()
    per_epoch = straight.job.trainer.plan.steps_per_epoch
    assert straight.job.trainer.plan.steps == 2 * per_epoch == 10
    for stop in (2, per_epoch):
        out = tmp_path / f"stopped {stop}"
        first = question.begun(out).go(stop)
        assert first.job.trainer.step == stop
        second = question.begun(out, resume=True)
        assert same(timeless_state(second.job), timeless_state(first.job))
        assert same(second.go().told[0], first_told(straight, after=stop)), "it goes on with the step that follows"
        assert same(timeless_state(second.job), timeless_state(straight.job))
        assert second.lines == straight.lines


def first_told(run: Run, *, after: int) -> object:
    """The step that follows the one after which a run was stopped."""
    return next(e for e in run.told if not isinstance(e, Epoch) and e.done == after + 1)


def test_two_runs_are_equal_and_a_seed_makes_another(tmp_path: Path) -> None:
    one, two = (asked(tmp_path, epochs=1).begun(tmp_path / name).go() for name in ("one", "two"))
    other = asked(tmp_path, epochs=1, seed=1).begun(tmp_path / "other").go()
    assert same(timeless_state(one.job), timeless_state(two.job))
    assert one.lines == two.lines
    assert not same(timeless_state(one.job)["weights"], timeless_state(other.job)["weights"])


@pytest.mark.parametrize("loss", ["local-lip-b", "local-lip-g"])
def test_training_learns_to_be_certified(loss: str, tmp_path: Path) -> None:
    recipe = {"epochs": 20, "ramp": 0.5, "warm_up": 0.0, "rate": 0.02, "eps": "0.5", "evaluate": 20}
    run = asked(tmp_path, loss=loss, **recipe).begun(tmp_path / "out").go()
    before, after = (e.held_out for e in run.told if isinstance(e, Epoch) and e.held_out is not None)
    assert before.certified_accuracy == 0
    assert after.certified_accuracy is not None
    assert after.certified_accuracy > 0.8


def test_what_comes_out_is_a_mean_of_the_weights(tmp_path: Path) -> None:
    job = asked(tmp_path, epochs=2, average=0.7).job()
    trainer = job.trainer
    steps: list[dict[str, Tensor]] = []
    while not trainer.done:
        trainer.train_step()
        steps.append({name: p.detach().clone() for name, p in trainer.moved.items()})
    assert len(steps) > 6
    mean = steps[0]
    for number, weights in enumerate(steps[1:], 2):
        share = max(1 / number, 0.3)
        mean = {name: (1 - share) * m + share * weights[name] for name, m in mean.items()}
    for name, found in trainer.average.items():
        torch.testing.assert_close(found, mean[name])
    network, images = job.network(), trainer.data.batch(torch.arange(5))[0].to(trainer.program.dtype)
    with torch.no_grad():
        with trainer.averaged():
            expected = trainer.program.logits(images)
        assert torch.equal(network(images), expected)
        assert not torch.equal(trainer.program.logits(images), expected)
    assert all(torch.equal(p, steps[-1][name]) for name, p in trainer.moved.items())


def test_without_a_mean_the_last_weights_come_out(tmp_path: Path) -> None:
    job = asked(tmp_path, epochs=1).job()
    job.trainer.train_step()
    assert job.trainer.average == {}
    assert job.network().output is job.trainer.weights.network.output


def test_schedules_reach_every_step_and_every_epoch(tmp_path: Path) -> None:
    how = {"epochs": 5, "warm_up": 0.2, "ramp": 0.6, "kappa": 0.25, "overshoot": 1.5, "eps": "0.4", "evaluate": 9}
    run = asked(tmp_path, rate=1e-2, final_rate=1e-4, decay_from=0.4, **how).begun(tmp_path / "out")
    steps = noted_calls(run)
    total = len(steps)
    assert total == 5 * run.job.trainer.plan.steps_per_epoch
    for number, (radius, kappa, rate) in enumerate(steps):
        progress = number / total
        share = min(1.0, max(0.0, (progress - 0.2) / 0.4))
        assert radius == pytest.approx(share * 1.5 * 0.4)
        assert kappa == pytest.approx(1 - share * 0.75)
        assert rate == pytest.approx(1e-2 * 10 ** (-2 * max(0.0, progress - 0.4) / 0.6))
    epochs = [e for e in run.told if isinstance(e, Epoch)]
    assert [e.epoch for e in epochs] == [0, 1, 2, 3, 4, 5]
    for epoch in epochs[1:]:
        assert epoch.step is not None
        assert (epoch.eps, epoch.kappa, epoch.rate) == steps[epoch.step - 1]


def test_every_image_is_trained_on_once_an_epoch(tmp_path: Path) -> None:
    """But for those that are left of the last batch, which differ between epochs."""
    run = asked(tmp_path, epochs=3, batch=10).begun(tmp_path / "out")
    trainer, seen = run.job.trainer, []
    batch = trainer.data.batch

    def noted(positions: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(positions)
        return batch(positions)

    object.__setattr__(trainer.data, "batch", noted)
    run.go()
    epochs = [torch.cat(seen[i : i + trainer.plan.steps_per_epoch]) for i in range(0, len(seen), len(seen) // 3)]
    assert len(epochs) == 3
    left_out = []
    for positions in epochs:
        assert len(positions) == len(set(positions.tolist())) == len(trainer.data) // 10 * 10
        left_out.append(set(range(len(trainer.data))) - set(positions.tolist()))
    assert not torch.equal(epochs[0], epochs[1])
    assert left_out[0] != left_out[1]


def test_held_out_and_test_images_are_never_trained_on(tmp_path: Path) -> None:
    job = asked(tmp_path).job()
    pixels = job.trainer.data.pixels.flatten(1)
    trained = {p.numpy().tobytes() for p in pixels}
    watched = {p.numpy().tobytes() for p in (job.watch.images * 255).round().to(torch.uint8).flatten(1)}
    (batch,) = job.test.batches(range(len(job.test)), len(job.test))
    tested = {p.numpy().tobytes() for p in (batch.images * 255).round().to(torch.uint8).flatten(1)}
    assert (len(trained), len(watched), len(tested)) == (84, 12, 24)
    assert len(trained | watched | tested) == 120


def test_a_batch_larger_than_the_data_is_all_of_it(tmp_path: Path) -> None:
    run = asked(tmp_path, batch=100_000, epochs=1).begun(tmp_path / "out").go()
    assert (run.job.trainer.plan.steps_per_epoch, run.job.trainer.batch) == (1, len(run.job.trainer.data))


def test_means_of_an_epoch(tmp_path: Path) -> None:
    """The losses of its steps, those of a resumed epoch too, in the order the record names them."""
    run = asked(tmp_path, epochs=2, kappa=0.5, sparsity=0.2).begun(tmp_path / "out")
    trainer, told = run.job.trainer, []
    objective = trainer.model

    def noted(*arguments: Any) -> Any:
        told.append(objective(*arguments))
        return told[-1]

    trainer.model = noted  # type: ignore[assignment]
    run.go()
    steps = trainer.plan.steps_per_epoch
    for epoch in [e for e in run.told if isinstance(e, Epoch)][1:]:
        own = told[(epoch.epoch - 1) * steps : epoch.epoch * steps]
        assert epoch.train is not None
        for part in ("loss", "clean_loss", "robust_loss", "sparsity"):
            mean = sum(float(getattr(m, part).detach()) for m in own) / steps
            assert getattr(epoch.train, part) == pytest.approx(mean, rel=1e-6)


def stationary(tmp_path: Path, epochs: int, **recipe: Any) -> list[float]:
    """The robust loss of each epoch of a run that moves no weight to speak of and begins with poor vectors."""
    still = {"rate": 1e-30, "final_rate": 1e-30, "warm_up": 0.0, "ramp": 0.0, "loss": "local-lip-g", "batch": 1000}
    trainer = asked(tmp_path, **still, epochs=epochs, **recipe).job().trainer
    generator = torch.Generator().manual_seed(0)
    trainer.unmasked = {t: torch.randn(v.shape, generator=generator) for t, v in trainer.unmasked.items()}
    losses = []
    while not trainer.done:
        trainer.train_step()
        losses.append(float(trainer.sums[2]))
        trainer.sums.zero_()
    return losses


def test_saved_vectors_get_better_with_every_epoch(tmp_path: Path) -> None:
    """Estimates from below rise to the norms, epoch after epoch; from random starts they stay where they are."""
    how = {"iterations": 1, "new": True, "arch": "mlp"}
    saved, random = stationary(tmp_path, 6, **how), stationary(tmp_path, 6, start="random", **how)
    assert saved == sorted(saved)
    assert saved[-1] - saved[0] > 10 * (max(random) - min(random))


def test_each_image_has_its_own_vectors(tmp_path: Path) -> None:
    """A step stores those of its batch, where the data has these images, and leaves the others alone."""
    trainer = asked(tmp_path, loss="local-lip-b", warm_up=0.0, ramp=0.0, warm_type="float32").job().trainer
    assert trainer.warm is not None
    places = trainer._places()
    others = [i for i in range(len(trainer.data)) if i not in places.tolist()]
    trainer.train_step()
    assert trainer.warm.seen[places].all()
    assert not trainer.warm.seen[others].any()
    for vectors in trainer.warm.vectors:
        assert (vectors[places].flatten(1).norm(dim=1) > 0).all()
        assert (vectors[others] == 0).all()


def calls(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Loss, int]]:
    """The loss of each step of a trainer, and of how many terms images had vectors."""
    found = []
    forward = Objective.forward

    def noted(self: Objective, images: Tensor, labels: Tensor, radius: float, *rest: Any) -> Any:
        found.append((self.recipe.loss, len(rest[2])))
        return forward(self, images, labels, radius, *rest)

    monkeypatch.setattr(Objective, "forward", noted)
    return found


def test_the_last_phase_begins_on_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it the vectors of images; what is not of its share is trained as if there were none."""
    how = {"loss": "gloro", "epochs": 4, "warm_up": 0.0}
    trainer = asked(tmp_path, **how, last_loss="local-lip-b", last_share=0.3).job().trainer
    plain = asked(tmp_path, **how).job().trainer
    told = calls(trainer, monkeypatch)
    while not trainer.done:
        begun = trainer.step >= 14
        assert (trainer.warm is None) is (trainer.step <= 14)
        trainer.train_step()
        assert (trainer.warm is not None) is begun
        if not begun:
            plain.train_step()
            assert same(timeless_copy(trainer)["weights"], timeless_copy(plain)["weights"])
            told.pop()
    assert trainer.plan.steps == 20
    layers = len(trainer.rooms[1].terms)  # type: ignore[union-attr]
    assert told == [(Loss.GLORO, 0)] * 14 + [(Loss.LOCAL_LIP_B, layers)] * 6
    assert trainer.warm is not None
    assert trainer.warm.seen.any()


def test_vectors_go_with_the_phase_that_uses_them(tmp_path: Path) -> None:
    trainer = asked(tmp_path, loss="local-lip-b", last_loss="crm", last_share=0.5).job().trainer
    assert trainer.warm is not None
    while not trainer.done:
        trainer.train_step()
        assert (trainer.warm is not None) is (trainer.step <= 5)


def test_room_is_asked_for_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though only its end takes it: nobody trains for hours to be refused then."""
    question = asked(tmp_path, loss="gloro", last_loss="local-lip-b", last_share=0.1)
    (note,) = (n for n in question.job().notes if n.startswith("warm starts"))
    assert "84 images" in note
    monkeypatch.setattr(llcert_train.warm_start, "free_memory", lambda device: 100)
    with pytest.raises(InvalidInput, match="warm starts take"):
        question.job()


def test_a_phase_that_is_measured_has_not_begun(tmp_path: Path) -> None:
    """Nothing of it stays, and no room is taken."""
    trainer = asked(tmp_path, loss="gloro", last_loss="local-lip-b", last_share=0.5).job().trainer
    before, objective = timeless_copy(trainer), trainer.objective
    trainer.cost(0.75)
    assert same(timeless_copy(trainer), before)
    assert (trainer.objective, trainer.warm, trainer.phase) == (objective, None, 0)


def test_orthogonal_weights_follow_their_parameters(tmp_path: Path) -> None:
    """After every step: they move, and every layer but the last keeps norm one."""
    trainer = asked(tmp_path, **WAYS["orthogonal"]).job().trainer
    computed = trainer.weights.computed
    assert len(computed) == 3
    for _ in range(3):
        before = {name: c.leaf.detach().clone() for name, c in computed.items()}
        trainer.train_step()
        for name, c in computed.items():
            assert torch.equal(c.leaf, c.value())
            assert not torch.equal(c.leaf, before[name])
    with torch.no_grad():
        bound = global_bound(trainer.program, seed=1)
    assert all(float(bound.norms[term]) <= 1 + 1e-4 for block in trainer.program.blocks[:-1] for term in block.terms)


def test_thresholds_never_fall_below_zero(tmp_path: Path) -> None:
    """With a rate that would carry them there at once."""
    trainer = asked(tmp_path, sparsity=1.0, rate=0.5, warm_up=0.0).job().trainer
    ops = [n.op for n in trainer.weights.network.operators() if isinstance(n.op, Clamp)]
    assert len(ops) == 3
    reached = 0
    while not trainer.done:
        try:
            trainer.train_step()
        except Diverged:
            break
        for op in ops:
            assert op.high is not None
            assert bool((op.high >= 0).all())
            reached += int((op.high == 0).sum())
    assert trainer.step > 3
    assert reached > 0, "no threshold was ever pushed to its floor: the test says little"


def test_measuring_the_cost_moves_nothing(tmp_path: Path) -> None:
    question = asked(tmp_path, flip=True, loss="local-lip-b")
    measured, left_alone = question.job(), question.job()
    before = timeless_copy(measured.trainer)
    ticks = itertools.count()
    measured.trainer.clock = lambda: float(next(ticks))
    for progress in (0.0, 0.5, 1.0):
        assert measured.trainer.cost(progress) == 1
        assert same(timeless_copy(measured.trainer), before)
    assert measured.trainer.seconds == measured.trainer.epoch_began == 3 * 7, "but it takes time of the run"
    for job in (measured, left_alone):
        for _ in range(4):
            job.trainer.train_step()
    assert same(timeless_state(measured), timeless_state(left_alone))


def test_seconds_add_up_over_runs(tmp_path: Path) -> None:
    question = asked(tmp_path)
    first = question.begun(tmp_path / "out").go(7)
    second = question.begun(tmp_path / "out", resume=True)
    assert second.job.trainer.seconds == first.job.trainer.seconds > 0
    second.go()
    seconds = [e.seconds for e in second.folder.epochs()]
    assert seconds == sorted(seconds)
    assert second.job.trainer.seconds > first.job.trainer.seconds


def test_a_state_is_plain(tmp_path: Path) -> None:
    """Tensors, numbers, texts, lists and dictionaries: what a reader without pickle can take."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (Tensor, torch.nn.Parameter, int, float, bool, str)

    trainer = asked(tmp_path).job().trainer
    trainer.train_step()
    assert plain(trainer.state())
