"""Measures of training runs read back, and pictures of them: what they show, the same bytes each time, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from llcert.errors import InvalidInput
from llcert_train import metrics, plot, plot_layers, plot_runs
from llcert_train.metrics import Epoch, HeldOut, Layer, Train

NAMES = ("conv1", "conv2", "logits")
FILES = [f"figure{n}.{kind}" for n in (2, 3, 4) for kind in ("png", "svg")]


def layer(name: str, place: int, **values: Any) -> Layer:
    iterations = ((3, 10, 20 - place), (11, 18, 60), (19, 19, 5))
    return replace(Layer(name, "Conv + ReLU-theta", 2.1, 1.9, 0.4 - 0.1 * place, iterations), **values)


def held_out(number: int, names: tuple[str, ...] = NAMES) -> HeldOut:
    share = 0.1 + 0.1 * number
    layers = tuple(layer(name, place) for place, name in enumerate(names))
    return HeldOut(200, share + 0.2, share + 0.1, share, 2 / (number + 1), 3 / (number + 1), 90, 60 - number, layers)


def epoch(number: int, **values: Any) -> Epoch:
    train = None if number == 0 else Train(1.2, 1.5 / number, 2.5 / number, 0.3, 800.0)
    return replace(Epoch(number, 40 * number, 3.5, 0.5, 0.3, 0.001, train, held_out(number)), **values)


def epochs(count: int = 4) -> tuple[Epoch, ...]:
    return tuple(epoch(number) for number in range(count))


def write(folder: Path, records: tuple[Epoch, ...]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / metrics.NAME).write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return folder


def line(**values: Any) -> bytes:
    return json.dumps({**epoch(1).to_json(), **values}).encode()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def store(content: bytes) -> Path:
        path = tmp_path / metrics.NAME
        path.write_bytes(content)
        return path

    return store


@pytest.fixture
def matplotlib() -> ModuleType:
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def figures(matplotlib: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Draws runs and hands out the figures themselves, as they are before they become files."""

    def make(*runs: tuple[Epoch, ...], labels: tuple[str, ...] = ()) -> dict[str, Any]:
        seen: list[Any] = []
        rendered = plot._rendered
        monkeypatch.setattr(plot, "_rendered", lambda figure, kind: seen.append(figure) or rendered(figure, kind))
        names = labels or tuple("abcdefghijklmnop"[: len(runs)])
        drawn = plot.draw([plot_runs.Run(n, e) for n, e in zip(names, runs, strict=True)], tmp_path / "out")
        assert len(seen) == len(drawn.files)
        return {path.stem: figure for path, figure in zip(drawn.files, seen, strict=True)}

    return make


def test_what_was_written_is_read_back(file: Callable[[bytes], Path]) -> None:
    records = (*epochs(3), epoch(3, held_out=None, train=None, rate=None))
    assert metrics.read(file("".join(json.dumps(e.to_json()) + "\n" for e in records).encode())) == records


def test_a_number_that_is_not_finite_becomes_null() -> None:
    record = Train(float("nan"), float("inf"), -float("inf"), 1.0)
    assert Train.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == Train(sparsity=1.0)


def test_only_the_number_of_the_epoch_is_needed(file: Callable[[bytes], Path]) -> None:
    assert metrics.read(file(b'{"epoch": 7, "news": [1]}\r\n')) == (Epoch(7),)


def test_an_unfinished_last_line_is_passed_over(file: Callable[[bytes], Path]) -> None:
    assert [e.epoch for e in metrics.read(file(line(epoch=0) + b"\n" + line(epoch=1) + b"\n" + line(epoch=2)))] == [
        0,
        1,
    ]


def test_a_repeated_epoch_replaces_itself_and_what_came_after(file: Callable[[bytes], Path]) -> None:
    content = b"".join(line(epoch=n, step=s) + b"\n" for n, s in ((0, 0), (1, 1), (2, 2), (3, 3), (2, 20), (3, 30)))
    assert [(e.epoch, e.step) for e in metrics.read(file(content))] == [(0, 0), (1, 1), (2, 20), (3, 30)]


@pytest.mark.parametrize("content", [b"", b"\xff", line()], ids=["empty", "torn", "unfinished"])
def test_a_file_without_a_finished_epoch_is_refused(content: bytes, file: Callable[[bytes], Path]) -> None:
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl: holds no finished epoch$"):
        metrics.read(file(content))


def of_layer(**values: Any) -> bytes:
    return line(held_out={"layers": [{"name": "a", "operator": "b", **values}]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"epoch": 1, "seconds": NaN}', "not JSON"),
        (b'{"epoch": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"epoch": 1, "note": "\xff"}', "not UTF-8"),
        ('{"epoch": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "record: a list in place of an object"),
        (b"null", "record: nothing in place of an object"),
        (b"{}", "epoch: missing"),
        (line(epoch=1.0), "epoch: a number in place of a whole number"),
        (line(epoch=True), "epoch: true or false in place of a whole number"),
        (line(epoch=-1), "epoch: a whole number outside"),
        (line(step=2**70), "step: a whole number outside"),
        (line(eps="0.5"), "eps: a text in place of a number"),
        (b'{"epoch": 1, "rate": 1e999}', "rate: a number outside"),
        (line(rate=10**400), "rate: a number outside"),
        (line(train=[]), "train: a list in place of an object"),
        (line(train={"loss": {}}), "train.loss: an object in place of a number"),
        (line(held_out=3), "held_out: a number in place of an object"),
        (line(held_out={"clean_accuracy": 1.2}), "held_out.clean_accuracy: a number outside 0 to 1"),
        (line(held_out={"global_lipschitz": -1}), "held_out.global_lipschitz: a number outside 0"),
        (line(held_out={"layers": {}}), "held_out.layers: an object in place of a list"),
        (line(held_out={"layers": [None] * 10_001}), "held_out.layers: more than 10,000 entries"),
        (line(held_out={"layers": [None]}), r"held_out.layers[0]: nothing in place of an object"),
        (of_layer(name=None), "held_out.layers[0].name: nothing in place of a text"),
        (of_layer(iterations=[1]), "iterations[0]: not a list of lowest, highest, images"),
        (of_layer(iterations=[[1, 2]]), "iterations[0]: not a list of lowest, highest, images"),
        (of_layer(iterations=[[1, 2, 0.5]]), "iterations[0]: a number in place of a whole number"),
        (of_layer(iterations=[[1, 2, None]]), "iterations[0]: nothing in place of a whole number"),
        (of_layer(iterations=[[3, 2, 1]]), "iterations[0]: not an interval above the one before it"),
        (of_layer(iterations=[[1, 2, 1], [2, 3, 1]]), "iterations[1]: not an interval above the one before it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_line_is_named(content: bytes, words: str, file: Callable[[bytes], Path]) -> None:
    path = file(line(epoch=0) + b"\n" + content + b"\n" + line(epoch=2) + b"\n")
    with pytest.raises(InvalidInput) as caught:
        metrics.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line 2: ")
    assert words in message
    assert len(message.removeprefix(str(path))) < 120
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("missing", "No such file"),
        ("folder", "not a file"),
        ("folder/none/x", "No such"),
        ("\0", "cannot be read"),
    ):
        with pytest.raises(InvalidInput, match=words):
            metrics.read(tmp_path / name)


def test_a_file_far_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, file: Callable[[bytes], Path]) -> None:
    monkeypatch.setattr(metrics, "_BYTES", 50)
    with pytest.raises(InvalidInput, match="more than 50 bytes"):
        metrics.read(file(line() + b"\n"))


def test_runs_are_named_for_their_folders_as_far_as_needed(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, epochs(1)) for name in ("a/run", "b/run", "b/other", "c/b/run")]
    runs = plot_runs.read_runs(folders)
    assert [run.label for run in runs] == [f"{a}/run" for a in ("a", f"{tmp_path.name}/b")] + ["other", "c/b/run"]
    assert [run.label for run in plot_runs.read_runs(folders[:2], ("x", "y"))] == ["x", "y"]


def test_a_run_is_named_for_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "here", epochs(1)))
    assert plot_runs.read_runs([Path()])[0].label == "here"


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c"), ("a", "a"), ("a", ""), ()])
def test_labels_must_tell_the_runs_apart(labels: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="labels: "):
        plot_runs.read_runs([write(tmp_path / name, epochs(1)) for name in "ab"], labels)


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run", epochs(1))
    for folders, words in (
        ([], "no training run"),
        ([tmp_path / "missing"], "not a folder"),
        ([run / metrics.NAME], "not a folder"),
        ([tmp_path], "No such file or directory; a folder that llcert trained in holds metrics.jsonl"),
        ([run, tmp_path / "run" / ".." / "run"], "given twice"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(words)):
            plot_runs.read_runs(folders)


def test_reading_needs_neither_torch_nor_matplotlib() -> None:
    script = "import sys, llcert_train.plot; sys.exit(bool({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidInput, match=re.escape('pip install "llcert[plot]"')):
        plot.draw([plot_runs.Run("a", epochs())], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_figure_is_a_picture_and_the_same_each_time(matplotlib: ModuleType, tmp_path: Path) -> None:
    runs = [plot_runs.Run("a", epochs()), plot_runs.Run("b", epochs(2))]
    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["font.size"] = 30
    first = plot.draw(runs, tmp_path / "new" / "first")
    matplotlib.rcParams["font.size"] = before["font.size"]
    second = plot.draw(runs, tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert [path.name for path in first.files] == FILES
    assert first.notes == ()
    assert [p.read_bytes() for p in first.files] == [p.read_bytes() for p in second.files]
    assert sorted(p.name for p in (tmp_path / "new" / "first").iterdir()) == FILES
    for path in first.files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.format == "PNG"
                assert image.width > 600
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")
            assert b"<dc:date>" not in path.read_bytes()


def test_no_display_is_asked_for(matplotlib: ModuleType, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from llcert_train import plot, plot_runs; "
        "out = Path(sys.argv[1]); plot.draw(plot_runs.read_runs([out]), out); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    folder = write(tmp_path / "run", epochs(1))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False")


def test_figure_2_shows_bounds_losses_and_accuracies(figures: Callable[..., dict[str, Any]]) -> None:
    bounds, clean, robust, accuracy = figures(epochs(), epochs(3))["figure2"].axes
    assert bounds.get_yscale() == "log"
    assert [(list(x.get_ydata()), x.get_linestyle()) for x in bounds.lines] == [
        ([90] * 4, "--"),
        ([90] * 3, "--"),
        ([60, 59, 58, 57], "-"),
        ([60, 59, 58], "-"),
    ]
    colours = [x.get_color() for x in bounds.lines]
    assert colours[:2] == colours[2:]
    assert colours[0] != colours[1]
    assert list(clean.lines[0].get_xdata()) == [1, 2, 3]
    assert list(clean.lines[0].get_ydata()) == [1.5, 0.75, 0.5]
    assert list(clean.lines[2].get_ydata()) == [2 / n for n in (1, 2, 3, 4)]
    assert list(robust.lines[0].get_ydata()) == [2.5 / n for n in (1, 2, 3)]
    assert [x.get_ydata()[0] for x in accuracy.lines] == pytest.approx([0.3, 0.3, 0.2, 0.2, 0.1, 0.1])
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == ["clean", "PGD", "certified"]


def test_epochs_without_a_look_are_bridged_and_values_without_a_number_are_gaps(
    figures: Callable[..., dict[str, Any]],
) -> None:
    blind = replace(held_out(3), clean_accuracy=None, global_lipschitz=0.0)
    records = (epoch(0), epoch(1, held_out=None), epoch(2), epoch(3, held_out=blind), epoch(4))
    axes = figures(records)["figure2"].axes
    for number, lone in ((0, axes[0].lines[0]), (3, axes[3].lines[0])):
        values = list(lone.get_ydata())
        assert list(lone.get_xdata()) == [0, 2, 3, 4], number
        assert values[2] != values[2]
        assert 3 in lone.get_markevery()


def test_losses_far_apart_get_a_logarithmic_axis(figures: Callable[..., dict[str, Any]]) -> None:
    start = epoch(0, held_out=replace(held_out(0), robust_loss=500.0))
    axes = figures((start, *epochs()[1:]))["figure2"].axes
    assert [a.get_yscale() for a in axes] == ["log", "linear", "log", "linear"]


def test_figure_3_shows_the_last_known_shares_without_the_logits(figures: Callable[..., dict[str, Any]]) -> None:
    later = replace(held_out(4), layers=tuple(replace(x, varying=None) for x in held_out(4).layers))
    part = replace(
        held_out(4), layers=(layer("x", 0), layer("y", 0, varying=None), layer("z", 0, varying=0.0), layer("", 0))
    )
    figure = figures((*epochs(), epoch(4, held_out=later)), (epoch(0, held_out=part),))["figure3"]
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["conv1", "conv2", "z"]
    bars = [(round(bar.get_x() + bar.get_width() / 2, 3), round(bar.get_height(), 3)) for bar in axes.patches]
    assert bars == [(-0.2, 0.4), (0.8, 0.3), (0.2, 0.4), (2.2, 0.0)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a, epoch 3", "b, epoch 0"]


def test_figure_4_shows_a_histogram_a_layer_whose_area_is_one(figures: Callable[..., dict[str, Any]]) -> None:
    gap = replace(held_out(1), layers=(layer("conv1", 0, iterations=((2, 2, 3), (5, 6, 1))), *held_out(1).layers[1:2]))
    figure = figures(epochs(2), (epoch(1, held_out=gap),))["figure4"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(NAMES)
    assert [len(axes.patches) for axes in figure.axes] == [4, 4, 2]
    for axes in figure.axes:
        for patch in axes.patches:
            heights, edges, _ = patch.get_data()
            assert sum(heights * (edges[1:] - edges[:-1])) == pytest.approx(1)
    heights, edges, _ = figure.axes[0].patches[2].get_data()
    assert (list(heights), list(edges)) == ([0.75, 0, 0.125], [1.5, 2.5, 4.5, 6.5])


def test_a_figure_without_data_is_left_out_with_a_note(matplotlib: ModuleType, tmp_path: Path) -> None:
    plain = tuple(replace(e, held_out=replace(held_out(e.epoch), layers=())) for e in epochs(2))
    drawn = plot.draw([plot_runs.Run("a", plain)], tmp_path)
    assert [path.name for path in drawn.files] == FILES[:2]
    assert drawn.notes == (
        "figure3 left out: no run has shares of varying neurons",
        "figure4 left out: no run has power iterations",
    )


def test_nothing_to_draw_is_refused(matplotlib: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing to draw"):
        plot.draw([plot_runs.Run("a", (Epoch(0), Epoch(1, held_out=HeldOut()), Epoch(2, train=Train())))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_are_shown_as_they_are_and_inside_the_picture(figures: Callable[..., dict[str, Any]]) -> None:
    strange = ("_hidden", "$x^$", "a\n\x1b[0m\ud800", "\u4e2d\u6587", "W" * 300)
    named = tuple(epoch(n, held_out=held_out(n, (*strange, ""))) for n in range(2))
    drawn = figures(*[named] * 5, labels=strange)
    shown = [t.get_text() for t in drawn["figure2"].legends[0].get_texts()]
    assert shown == ["_hidden", r"\$x^\$", "a??[0m?", "\u4e2d\u6587", "W" * 23 + "…" + "W" * 23]
    with plot._drawing():
        boxes = [(figure.legends[0].get_window_extent(), figure) for figure in drawn.values()]
    for box, figure in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    assert drawn["figure4"].axes[-1].get_title(loc="left") == "layer 6"


def test_many_runs_have_a_colour_each(figures: Callable[..., dict[str, Any]]) -> None:
    last = replace(held_out(1), layers=())
    lines = figures(*[(epoch(0, held_out=last),)] * 12)["figure2"].axes[0].lines[:12]
    assert len({x.get_color() for x in lines}) == 12


@pytest.mark.parametrize("value", [5e-324, 1e-100, 1e100, 0.0, 7.0])
def test_extreme_numbers_are_drawn_too(value: float, matplotlib: ModuleType, tmp_path: Path) -> None:
    looks = [HeldOut(robust_loss=sign * value, global_lipschitz=value, clean_loss=1.0 - sign) for sign in (1, -1)]
    records = tuple(Epoch(n << 50, held_out=look) for n, look in enumerate(looks))
    assert len(plot.draw([plot_runs.Run("a", records)], tmp_path).files) == 2


def test_more_layers_than_a_picture_has_room_for(
    figures: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot_layers, "_MOST_LAYERS", {"figure3": 1, "figure4": 2})
    drawn = figures(epochs(1))
    assert len(drawn["figure3"].axes[0].patches) == 1
    assert len(drawn["figure4"].axes) == 2


def test_a_failed_write_leaves_what_was_there(
    matplotlib: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "figure2.png").write_bytes(b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InvalidInput, match="cannot be written \\(No space left on device\\)"):
        plot.draw([plot_runs.Run("a", epochs(1))], tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("figure2.png", b"earlier")]


def test_an_output_that_is_no_folder_is_refused(matplotlib: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file: cannot be written"):
        plot.draw([plot_runs.Run("a", epochs(1))], tmp_path / "file")
