"""Max pooling over windows of the last one or two axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import Activation, Shape
from llcert.region import Region


@dataclass(frozen=True)
class MaxPool(Activation):
    """The largest entry of each window. One kernel, stride, dilation and (before, after) padding for each pooled axis.

    Padding never wins; every window must see at least one real entry. Overlapping windows give a norm above one:
    an entry counts once for every window it may win (the root of that number is its slope).
    """

    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        widths = [w for pair in reversed(self.padding) for w in pair]
        padded = F.pad(z, widths, value=-torch.inf) if any(widths) else z
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return pool(padded, self.kernel, self.stride, 0, self.dilation)

    def slope(self, z: Region) -> Tensor:
        """The root of the number of windows whose maximum an entry can be over the box."""
        floor = self(z.lower)
        return torch.sqrt(self._windows(z.upper, lambda entries, window: ~(entries < window), floor))

    def global_slope(self, shape: Shape) -> Tensor:
        entries = torch.zeros(1, *shape)
        return torch.sqrt(self._windows(entries, lambda e, w: torch.ones_like(e, dtype=torch.bool), self(entries)))[0]

    def _windows(self, z: Tensor, counts: Callable[[Tensor, Tensor], Tensor], floor: Tensor) -> Tensor:
        """For each entry, the number of windows where `counts(entry, window's floor)`, `[batch, *shape]`."""
        spatial = len(self.kernel)
        sizes = [n + before + after for n, (before, after) in zip(z.shape[-spatial:], self.padding, strict=True)]
        total = torch.zeros(*z.shape[:-spatial], *sizes, dtype=z.dtype, device=z.device)
        widths = [w for pair in reversed(self.padding) for w in pair]
        padded = F.pad(z, widths, value=-torch.inf)
        for position in torch.cartesian_prod(*(torch.arange(k) for k in self.kernel)).reshape(-1, spatial).tolist():
            seen = [
                slice(p * d, p * d + s * (n - 1) + 1, s)
                for p, d, s, n in zip(position, self.dilation, self.stride, floor.shape[-spatial:], strict=True)
            ]
            total[..., *seen] += counts(padded[..., *seen], floor).to(z.dtype)
        inside = [slice(b, b + n) for (b, _), n in zip(self.padding, z.shape[-spatial:], strict=True)]
        return total[..., *inside]
