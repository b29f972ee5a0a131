"""Global Lipschitz constants of every value and of the logits, estimated and proved (docs/method.md, sections 5, 6)."""
