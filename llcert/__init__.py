"""llcert: certified L2 robustness of trained networks by local Lipschitz bounds.

*The paper*, here and in all modules, is Huang, Zhang, Shi, Kolter, Anandkumar, *Training Certifiably Robust Neural
Networks with Efficient Local Lipschitz Bounds* (NeurIPS 2021); equations and tables are its own unless another source
is named. docs/method.md has all of it in one notation.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llcert.errors import InvalidInput, LlcertError, NumericalError, UnsupportedModel
from llcert.machine.versions import VERSION

if TYPE_CHECKING:
    from llcert.api import certify
    from llcert.data import Dataset, load_dataset
    from llcert.domain.region import Region
    from llcert.frontend.load import from_torch, load
    from llcert.frontend.onnx_file import save
    from llcert.ir import Network
    from llcert.reporting import Report

__version__ = VERSION

__all__ = [
    "Dataset",
    "InvalidInput",
    "LlcertError",
    "Network",
    "NumericalError",
    "Region",
    "Report",
    "UnsupportedModel",
    "__version__",
    "certify",
    "from_torch",
    "load",
    "load_dataset",
    "save",
]

_HOMES = {
    "Dataset": "llcert.data",
    "Network": "llcert.ir",
    "Region": "llcert.domain.region",
    "Report": "llcert.reporting",
    "certify": "llcert.api",
    "from_torch": "llcert.frontend.load",
    "load": "llcert.frontend.load",
    "load_dataset": "llcert.data",
    "save": "llcert.frontend.onnx_file",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: `import llcert` stays cheap and needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'llcert' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
