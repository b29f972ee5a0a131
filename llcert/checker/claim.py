"""The claim of a certificate about every point of a ball (docs/certificate.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llcert.checker.files import InvalidCertificate, require
from llcert.checker.numbers import number, rounded_up


@dataclass(frozen=True)
class Claim:
    """The label's logit is strictly among the `top` largest, or, where `never` is given, class `never` is not the
    answer.

    It is proved by comparing one class of each image, its reference, with others: the label with every other class but
    `top - 1` of them, or some class with the one that is never answered.

    within: the claim is about those points of the ball alone whose entries lie between these two numbers, which are
        rounded outwards; None for the whole ball.
    limit: this restriction in words.
    """

    top: int = 1
    never: int | None = None
    within: tuple[float, float] | None = None
    limit: str = ""

    @property
    def words(self) -> str:
        """The claim in words, without its restriction."""
        if self.never is not None:
            return f"the network never answers class {self.never}"
        return f"the label stays {'first' if self.top == 1 else f'among the {self.top} largest logits'}"

    @property
    def role(self) -> str:
        """The key of the reference in the entries of certificate.json."""
        return "label" if self.never is None else "reference"

    def others(self, reference: int, classes: int, logits: int) -> Iterator[tuple[int, bool]]:
        """Every logit that the reference is compared with, and whether it is one of those that may be left out.

        logits: their number, one more than `classes` where the last is the zero of a final ReLU, which may not be left
        out. Raises Rejected where the claim is about a class that does not exist.
        """
        require(reference < classes, f"{self.role} {reference}: there are {classes} classes")
        if self.never is not None:
            require(self.never < classes, f"class {self.never} that is never answered: there are {classes} classes")
            require(self.never != reference, f"reference {reference} is the class that is never answered")
            yield self.never, False
        else:
            require(self.top < classes, f"top {self.top}: there are {classes} classes")
            yield from ((other, self.top > 1) for other in range(classes) if other != reference)
        yield from ((zero, False) for zero in range(classes, logits))


def parse(found: object) -> Claim:
    """The claim of certificate.json, `{"top": K}` or `{"never": J}`, with `"within": [low, high]` if it is restricted.

    Raises InvalidCertificate for anything else.
    """
    said = dict(found) if isinstance(found, dict) else {}
    within, limit = None, ""
    if "within" in said:
        ends = said.pop("within")
        within = _range(ends)
        limit = f", for pixels from {ends[0]} to {ends[1]} only"
    if len(said) == 1:
        ((name, count),) = said.items()
        if name == "top" and type(count) is int and count >= 1:
            return Claim(top=count, within=within, limit=limit)
        if name == "never" and type(count) is int and count >= 0:
            return Claim(never=count, within=within, limit=limit)
    raise InvalidCertificate("certificate.json: claim: neither {top: K} nor {never: class}")


def _range(found: object) -> tuple[float, float]:
    """The ends of a range, rounded outwards."""
    ends = [number(end, signed=True) for end in found] if isinstance(found, list) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None or not low < high:
        raise InvalidCertificate("certificate.json: claim: within: not the lower and the upper end of a range")
    return 0.0 - rounded_up(-low), rounded_up(high)
