"""Rewrites of an imported graph to a canonical one, and the check of what may remain in it."""

from llcert.passes.canonical import canonicalise
from llcert.passes.head import notes_of, strip_head
from llcert.passes.legal import check_legal

__all__ = ["canonicalise", "check_legal", "notes_of", "strip_head"]
