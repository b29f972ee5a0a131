"""Number formats and their rounding errors, tensor helpers, and functions of tensors with cheap derivatives.

Every computed number becomes a bound in one way: `Rounding.above` raises what is computed from terms >= 0 to an upper
bound of the exact value, and `downwards` and `upwards` step to the next number (docs/method.md, section 12).
"""
