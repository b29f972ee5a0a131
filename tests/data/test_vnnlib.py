import gzip

import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput

OUTPUTS = "(declare-const Y_0 Real)(declare-const Y_1 Real)(declare-const Y_2 Real)"
BOX = "(declare-const X_0 Real)(assert (>= X_0 0.0))(assert (<= X_0 1))" + OUTPUTS


def load(write, text, name="property.vnnlib"):
    content = text.encode()
    return load_dataset(str(write.put(name, gzip.compress(content) if name.endswith(".gz") else content)))


@pytest.mark.parametrize("name", ["property.vnnlib", "property.vnnlib.gz"])
def test_centre_and_label(write, name):
    data = load(write, write.vnnlib([0.25, -1.0, 0.5], [0.75, 2.0, 0.5], classes=4, label=2), name)
    batch = next(data.batches(range(1), 8))
    assert torch.equal(batch.images, torch.tensor([[0.5, 0.5, 0.5]]))
    assert batch.labels.tolist() == [2]
    assert data.class_count == 4
    assert data.image_shape == (3,)


def test_reshaped(write):
    path = write.put("p.vnnlib", write.vnnlib([0] * 12, [1] * 12).encode())
    assert load_dataset(str(path), image_shape=(3, 2, 2)).image_shape == (3, 2, 2)


@pytest.mark.parametrize(
    "claim",
    [
        "(assert (or (and (>= Y_0 Y_1)) (and (>= Y_2 Y_1))))",
        "(assert (or (and (<= Y_1 Y_0)) (<= Y_1 Y_2)))",
        "(assert (or (> Y_0 Y_1) (< Y_1 Y_2)))",
        "(assert (or (and (>= Y_0 Y_1))))",
        "(assert (>= Y_2 Y_1))",
    ],
)
def test_spellings_of_the_claim(write, claim):
    assert load(write, BOX + claim).labels.tolist() == [1]


@pytest.mark.parametrize(
    "box",
    [
        "(assert (and (>= X_0 0.2) (<= X_0 0.4)))",
        "(assert (<= 0.2 X_0))(assert (>= .4 X_0))",
        "(assert (>= X_0 2e-1))(assert (>= X_0 -7))(assert (<= X_0 +4.E-1))(assert (< X_0 9))",
    ],
)
def test_spellings_of_the_box(write, box):
    text = f"(declare-const X_0 Real)\n{OUTPUTS}{box}(assert (>= Y_2 Y_1)) ; the end"
    assert next(load(write, text).batches(range(1), 1)).images.item() == pytest.approx(0.3)


CLAIM = "(assert (>= Y_2 Y_1))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "inputs are not declared"),
        (BOX, "do not say which class"),
        (BOX + "(assert (>= Y_2 Y_1))(assert (>= Y_2 Y_0))", "do not say which class"),
        (BOX + "(assert (or (>= Y_0 Y_1) (>= Y_2 Y_0)))", "do not say which class"),
        (BOX + "(assert (or (>= Y_0 Y_1) (>= Y_2 Y_1)))(assert (>= Y_0 Y_1))", "do not say which class"),
        (BOX + "(assert (>= Y_0 0.5))", "neither bounds an input nor compares"),
        (BOX + "(assert (>= Y_1 Y_1))", "compared with itself"),
        (BOX + "(assert (>= X_0 Y_1))", "neither bounds an input nor compares"),
        (BOX + "(assert (or (and (>= Y_0 Y_1) (>= Y_2 Y_1)) (>= Y_0 Y_1)))", "more than one comparison"),
        (BOX + "(assert (or (and (>= X_0 0) (>= Y_2 Y_1)) (>= Y_0 Y_1)))", "more than one comparison"),
        (BOX + "(assert (>= Y_3 Y_1))", "used before it is declared"),
        (BOX + "(assert (>= Z_3 Y_1))", "neither an input"),
        (BOX + "(assert (>= (+ Y_0 Y_2) Y_1))", "cannot read"),
        (BOX + "(assert (not (>= Y_0 Y_1)))", "cannot read"),
        (BOX + "(check-sat)", "cannot read"),
        (BOX + "(declare-const X_0 Real)" + CLAIM, "declared twice"),
        (BOX + "(declare-const X_2 Real)" + CLAIM, "inputs are not declared as"),
        (BOX + "(declare-const X_1 Real)" + CLAIM, "X_1 has no lower and upper bound"),
        (BOX + "(assert (>= X_0 2))" + CLAIM, "lower bound above"),
        (BOX.replace("X_0 1)", "X_0 1e999)") + CLAIM, "too large or too small a number"),
        (BOX.replace("X_0 1)", "X_0 1e-999999999)") + CLAIM, "too large or too small a number"),
        (BOX.replace("X_0 1)", "X_0 nan)") + CLAIM, "neither an input"),
        (BOX.replace("X_0 1)", "X_0 1e309)").replace("X_0 0.0", "X_0 1e309") + CLAIM, "X_0 has no finite centre"),
        (BOX + "(assert", "ends within"),
        (BOX + CLAIM + ")", "closes that was not opened"),
        ("(" * 1000, "nested too deeply"),
        ("(assert " + "1" * 100 + ")", "cannot read"),
        ("(vnnlib-version <2.0>)", "VNN-LIB 1.0"),
        ("(declare-const X_0 Int)", "cannot read"),
        ("X_0", "cannot read"),
        ("\0", "cannot read"),
    ],
)
def test_refusals(write, text, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        load(write, text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(write):
    with pytest.raises(InvalidInput, match="not a readable text file"):
        load_dataset(str(write.put("p.vnnlib", b"\xff\xfe\x00")))
    with pytest.raises(InvalidInput, match="not a readable vnnlib file"):
        load_dataset(str(write.put("p.vnnlib.gz", b"(assert")))
