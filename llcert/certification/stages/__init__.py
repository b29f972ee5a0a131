"""The stages of a certification, one file each (docs/method.md, section 14)."""
