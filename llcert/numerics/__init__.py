"""Number formats and their rounding errors, tensor helpers, and functions of tensors with cheap derivatives."""
