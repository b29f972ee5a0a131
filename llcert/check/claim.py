"""What a certificate claims of every point of a ball."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llcert.check.files import require
from llcert.errors import InvalidInput


@dataclass(frozen=True)
class Claim:
    """The image's label is among the `top` largest logits, strictly, or the class `never` is not the answer.

    A class of each image, its reference, is compared with others: the label with every other class, of which `top - 1`
    may be spared; any class with the one that is never answered.
    """

    top: int = 1
    never: int | None = None

    @property
    def role(self) -> str:
        """What an entry of certificate.json calls the reference."""
        return "label" if self.never is None else "reference"

    def others(self, reference: int, classes: int, logits: int) -> Iterator[tuple[int, bool]]:
        """Every logit that the reference is compared with, and whether it may be spared. A zero may not.

        Raises Rejected where the claim means nothing.
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
    """The claim of certificate.json, `{"top": K}` or `{"never": J}`. Raises InvalidInput for anything else."""
    if isinstance(found, dict) and len(found) == 1:
        ((name, number),) = found.items()
        if name == "top" and type(number) is int and number >= 1:
            return Claim(top=number)
        if name == "never" and type(number) is int and number >= 0:
            return Claim(never=number)
    raise InvalidInput("certificate.json: claim: neither {top: K} nor {never: class}")
