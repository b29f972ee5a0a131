"""Warm starts: what is stored comes back, what is not there comes from the whole map, and where it all lies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from drawing import normal32
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Add, Conv, Linear, Reshape, relu
from llcert.program import Program, Term, lower
from llcert.spectral import Masked, random_start
from llcert_train import warm_start
from llcert_train.norms import FewIterations
from llcert_train.settings import WarmPlace, WarmType
from llcert_train.warm_start import Room, WarmStarts, iterated

IMAGES = 10
TYPES = {WarmType.FLOAT16: torch.float16, WarmType.BFLOAT16: torch.bfloat16, WarmType.FLOAT32: torch.float32}
PRECISION = {WarmType.FLOAT16: 2**-11, WarmType.BFLOAT16: 2**-8, WarmType.FLOAT32: 2**-24}
"""Relative rounding error of one entry."""


def program() -> Program:
    """A convolution, two activations in a row, a sum with the image, and a dense layer."""
    image = apply(Input((2, 4, 4)))
    hidden = apply(relu(), apply(Conv(normal32(2, 2, 3, 3), None, (1, 1), (1, 1)), image))
    inner = apply(Conv(normal32(2, 2, 3, 3, seed=1), None, (1, 1), (1, 1)), apply(relu(), hidden))
    joined = apply(relu(), apply(Add(), inner, image))
    return lower(Network(apply(Linear(normal32(3, 32, seed=2)), apply(Reshape((32,)), joined))))


def units(program: Program, count: int, seed: int = 0) -> dict[Term, Tensor]:
    """Unit vectors, `[count, *columns]` for every term, those that move included."""
    found = {}
    for number, term in enumerate(t for b in program.blocks for t in b.terms):
        x = normal32(count, *term.columns, seed=seed + number)
        found[term] = x / x.flatten(1).norm(dim=1).reshape(-1, *[1] * len(term.columns))
    return found


def direction(x: Tensor) -> Tensor:
    return x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True)


def room(kind: WarmType = WarmType.FLOAT16, images: int = IMAGES) -> tuple[Program, WarmStarts]:
    own = program()
    return own, Room.of(own, images, kind, WarmPlace.AUTO).starts()


class TestTerms:
    def test_those_that_move_take_no_iteration(self) -> None:
        own = program()
        every = [t for b in own.blocks for t in b.terms]
        assert len(every) == 5
        assert [t for t in every if t not in iterated(own)] == [t for t in every if t.is_scaled_permutation]
        assert len(iterated(own)) == 4

    def test_one_vector_an_image_and_term(self) -> None:
        own, starts = room()
        assert starts.terms == iterated(own)
        assert [v.shape for v in starts.vectors] == [(IMAGES, *t.columns) for t in starts.terms]
        assert not starts.seen.any()


class TestStoreAndLoad:
    @pytest.mark.parametrize("kind", WarmType)
    def test_directions_come_back(self, kind: WarmType) -> None:
        own, starts = room(kind)
        assert {v.dtype for v in starts.vectors} == {TYPES[kind]}
        places, found = torch.tensor([7, 0, 3]), units(own, 3)
        starts.store(places, found)
        loaded = starts.load(places, units(own, 1, seed=50), seed=1)
        assert list(loaded) == list(starts.terms)
        for term, x in loaded.items():
            assert x.dtype == torch.float32
            assert x.shape == found[term].shape
            error = (direction(x.double()) - direction(found[term].double())).norm(dim=1)
            assert (error <= 2 * PRECISION[kind]).all()

    @pytest.mark.parametrize("kind", WarmType)
    def test_entries_of_long_vectors_do_not_vanish(self, kind: WarmType) -> None:
        """One of a ten-thousandth of the usual size has its digits; unscaled, float16 would round it away."""
        image = apply(Input((1, 200, 200)))
        own = lower(Network(apply(Linear(torch.ones(2, 40000)), apply(Reshape((40000,)), image))))
        (term,) = iterated(own)
        x = torch.full((1, 1, 200, 200), 1 / 200)
        x[0, 0, 0, 0] *= 1e-4
        starts = Room.of(own, 1, kind, WarmPlace.HOST).starts()
        starts.store(torch.tensor([0]), {term: x})
        (loaded,) = starts.load(torch.tensor([0]), {term: x}, 0).values()
        ratio = float(loaded[0, 0, 0, 0] / loaded[0, 0, 0, 1])
        assert ratio == pytest.approx(1e-4, rel=4 * PRECISION[kind])

    def test_concentrated_vectors_do_not_overflow(self) -> None:
        _, starts = room()
        found = {t: torch.zeros(1, *t.columns) for t in starts.terms}
        for x in found.values():
            x.view(-1)[3] = 1.0
        starts.store(torch.tensor([2]), found)
        for term, x in starts.load(torch.tensor([2]), {}, 0).items():
            torch.testing.assert_close(direction(x), found[term].flatten(1))

    def test_images_keep_theirs(self) -> None:
        own, starts = room()
        first, second = units(own, 4), units(own, 3, seed=20)
        starts.store(torch.tensor([0, 1, 2, 3]), first)
        starts.store(torch.tensor([9, 2, 5]), second)
        places = torch.tensor([5, 2, 0, 9])
        assert starts.seen.nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 9]
        for term, x in starts.load(places, {}, 0).items():
            expected = torch.stack([second[term][2], second[term][1], first[term][0], second[term][0]])
            torch.testing.assert_close(direction(x), direction(expected), atol=2e-3, rtol=0)

    def test_nothing_found_changes_nothing(self) -> None:
        own, starts = room()
        starts.store(torch.tensor([0]), units(own, 1))
        before = [v.clone() for v in starts.vectors]
        starts.store(torch.tensor([1, 2]), {})
        assert all(torch.equal(a, b) for a, b in zip(before, starts.vectors, strict=True))
        assert starts.seen.nonzero().flatten().tolist() == [0]

    def test_what_is_loaded_is_not_what_is_kept(self) -> None:
        own, starts = room(WarmType.FLOAT32)
        places = torch.arange(3)
        starts.store(places, units(own, 3))
        before = [v.clone() for v in starts.vectors]
        for x in starts.load(places, {}, 0).values():
            x.zero_()
        assert all(torch.equal(a, b) for a, b in zip(before, starts.vectors, strict=True))

    @pytest.mark.parametrize("kind", WarmType)
    def test_an_iteration_goes_on_where_it_stopped(self, kind: WarmType) -> None:
        """What warm starts are for: two iterations a step come as close as all of them in a row."""
        own, starts = room(kind)
        term, places = starts.terms[0], torch.arange(IMAGES)
        generator = torch.Generator().manual_seed(3)
        rows, columns = ((torch.rand(IMAGES, 2, 4, 4, generator=generator) < 0.8).float() for _ in range(2))
        masked, begin = Masked(term, rows, columns), random_start(tuple(columns.shape), columns, 0)
        whole, some = units(own, 1), FewIterations(2)
        starts.store(places, {**units(own, IMAGES), term: begin})
        for _ in range(15):
            norm = some(masked, starts.load(places, whole, 0)[term])
            starts.store(places, {**units(own, IMAGES), term: norm.vector})
        many, cold = FewIterations(30)(masked, begin).value, some(masked, begin).value
        assert (norm.value >= many * (1 - 10 * PRECISION[kind])).all()
        assert (cold < many * (1 - 10 * PRECISION[kind])).any()


class TestUnseen:
    def test_the_whole_maps_vector_and_as_much_noise(self) -> None:
        own, starts = room(images=400)
        whole = units(own, 1, seed=9)
        for term, x in starts.load(torch.arange(400), whole, seed=5).items():
            noise = (x - whole[term]).flatten(1)
            assert float(noise.norm(dim=1).mean()) == pytest.approx(1.0, rel=0.1)
            assert float((noise @ whole[term].flatten()).abs().mean()) < 0.3
            torch.testing.assert_close(noise.mean(0), torch.zeros_like(noise[0]), atol=0.05, rtol=0)
            correlation = direction(noise) @ direction(noise).T - torch.eye(400)
            assert float(correlation.abs().max()) < 0.999, "images share their noise"

    def test_only_they_get_it(self) -> None:
        own, starts = room()
        found, whole = units(own, 2), units(own, 1, seed=9)
        starts.store(torch.tensor([1, 4]), found)
        for term, x in starts.load(torch.tensor([0, 1, 4, 8]), whole, seed=5).items():
            torch.testing.assert_close(direction(x[1:3]), direction(found[term]), atol=2e-3, rtol=0)
            fresh = direction(x[[0, 3]]) @ direction(whole[term])[0]
            assert (fresh > 0.3).all()
            assert (fresh < 0.999).all()

    def test_the_seed_decides(self) -> None:
        own, starts = room()
        whole, places = units(own, 1), torch.arange(4)
        first, same, other = (starts.load(places, whole, seed) for seed in (3, 3, 400))
        for term in starts.terms:
            assert torch.equal(first[term], same[term])
            assert not torch.equal(first[term], other[term])

    def test_terms_of_one_shape_get_noise_of_their_own(self) -> None:
        own, starts = room()
        same = [t for t in starts.terms if t.columns == (2, 4, 4)]
        assert len(same) >= 2
        whole = units(own, 1)
        loaded = starts.load(torch.arange(2), whole, 0)
        noise = [loaded[t] - whole[t] for t in same]
        assert not torch.allclose(noise[0], noise[1])

    def test_loading_marks_nothing_as_seen(self) -> None:
        own, starts = room()
        starts.load(torch.arange(4), units(own, 1), 0)
        assert not starts.seen.any()


class TestState:
    @pytest.mark.parametrize("kind", WarmType)
    def test_through_a_file(self, kind: WarmType, tmp_path: Path) -> None:
        own, starts = room(kind)
        starts.store(torch.tensor([1, 4, 7]), units(own, 3))
        torch.save(starts.state(), tmp_path / "state.pt")
        _, other = room(kind)
        held = [v.data_ptr() for v in other.vectors]
        other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [v.data_ptr() for v in other.vectors] == held
        assert torch.equal(other.seen, starts.seen)
        for a, b in zip(other.vectors, starts.vectors, strict=True):
            assert a.dtype == b.dtype == TYPES[kind]
            assert torch.equal(a, b)

    def test_continues_alike(self, tmp_path: Path) -> None:
        own, starts = room()
        starts.store(torch.tensor([1, 4, 7]), units(own, 3))
        torch.save(starts.state(), tmp_path / "state.pt")
        other = Room.of(own, IMAGES, WarmType.FLOAT16, WarmPlace.HOST).starts()
        other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        whole, places = units(own, 1), torch.arange(IMAGES)
        for a, b in zip(starts.load(places, whole, 2).values(), other.load(places, whole, 2).values(), strict=True):
            assert torch.equal(a, b)

    def test_of_other_images_is_an_error(self) -> None:
        (_, starts), (_, other) = room(), room(images=IMAGES + 1)
        with pytest.raises(ValueError, match="warm starts"):
            other.restore(starts.state())


SIZE = 128 * IMAGES * 2
"""Bytes of the vectors in float16: four terms of 32 columns."""


class TestPlace:
    def free(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        monkeypatch.setattr(warm_start, "free_memory", lambda device: size)

    @pytest.mark.parametrize("place", [WarmPlace.AUTO, WarmPlace.HOST])
    @pytest.mark.parametrize(("kind", "width"), [(WarmType.FLOAT16, 1), (WarmType.BFLOAT16, 1), (WarmType.FLOAT32, 2)])
    def test_half_of_what_is_free(
        self, kind: WarmType, width: int, place: WarmPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.free(monkeypatch, 2 * SIZE * width)
        starts = Room.of(program(), IMAGES, kind, place).starts()
        assert sum(v.numel() * v.element_size() for v in starts.vectors) == SIZE * width
        self.free(monkeypatch, 2 * SIZE * width - 2)
        with pytest.raises(InvalidInput) as caught:
            Room.of(program(), IMAGES, kind, place).starts()
        assert "\n" not in str(caught.value)
        for words in ("0.0 GiB", "half of the memory", "--start random", "--warm-type float16"):
            assert words in str(caught.value)

    def test_a_device_that_was_asked_for_may_be_filled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free(monkeypatch, SIZE)
        Room.of(program(), IMAGES, WarmType.FLOAT16, WarmPlace.DEVICE).starts()
        self.free(monkeypatch, SIZE - 1)
        with pytest.raises(InvalidInput, match="more than all of the memory that is free"):
            Room.of(program(), IMAGES, WarmType.FLOAT16, WarmPlace.DEVICE).starts()

    def test_a_full_device_leaves_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As seen by what chooses the place: there need not be a GPU."""
        device, host = torch.device("cuda"), torch.device("cpu")
        monkeypatch.setattr(warm_start, "free_memory", lambda place: 100 if place == device else 1000)
        assert warm_start._place(device, 50, WarmPlace.AUTO) == device
        assert warm_start._place(device, 51, WarmPlace.AUTO) == host
        assert warm_start._place(device, 10, WarmPlace.HOST) == host
        assert warm_start._place(device, 100, WarmPlace.DEVICE) == device
        for size, place in ((501, WarmPlace.AUTO), (501, WarmPlace.HOST), (101, WarmPlace.DEVICE)):
            with pytest.raises(InvalidInput, match="warm starts take"):
                warm_start._place(device, size, place)

    def test_sizes_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free(monkeypatch, 2**30)
        with pytest.raises(InvalidInput, match=r"take 5\.7 GiB"):
            Room.of(program(), 24_000_000, WarmType.FLOAT16, WarmPlace.AUTO).starts()


@pytest.mark.parametrize("kind", WarmType)
def test_the_sentence(kind: WarmType) -> None:
    own = Room.of(program(), 12_345, kind, WarmPlace.AUTO)
    found = re.fullmatch(r"warm starts: 12,345 images x 4 layers as (\w+), (\d+) MiB on cpu", own.sentence)
    assert found is not None
    size = 12_345 * 128 * (4 if kind is WarmType.FLOAT32 else 2) / 2**20
    assert (found[1], int(found[2])) == (kind.value, round(size))
