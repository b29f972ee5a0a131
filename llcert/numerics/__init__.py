"""Number formats: rounding errors in units of a format, and functions of tensors with cheap derivatives."""
