"""Programs: a network cut into blocks, each a linear map of earlier values and at most one activation.

Every bound goes through a network block by block (docs/method.md, section 2).
"""

from llcert.program.blocks import Block, Program
from llcert.program.lowering import lower, reached
from llcert.program.term import Term

__all__ = ["Block", "Program", "Term", "lower", "reached"]
