"""Saved torch.export programs, read without torch's own loader, which unpickles and evaluates what a file holds."""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.traced import interpreted, network
from llcert.frontend.traced_graph import PYTHON, Ref, Step, Traced, first_line
from llcert.ir import LARGEST, Network

_DTYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16}
_DTYPES |= {7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_MAJOR = 8


def load_pt2(path: str | Path) -> Network:
    """The classifier in a `.pt2` file that `torch.export.save` wrote; batch fixed or free, every other size fixed.

    It has not been compared with torch's own operators yet.

    Nothing in the file is unpickled, imported or evaluated. Raises InvalidInput where it cannot be read and
    UnsupportedModel where llcert cannot represent what it holds.
    """
    source = Path(path).name
    try:
        with zipfile.ZipFile(path) as archive:
            traced = _Archive(archive, source).traced()
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be read: {error.strerror or first_line(error)}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InvalidInput(f"{source}: is not an intact .pt2 archive: {first_line(error)}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{source}: its graph is not in torch.export's format ({first_line(error)})") from error
    return network(traced, functools.partial(interpreted, traced), "torch")


class _Archive:
    """One open file. Members lie in one folder whose name is the archive's own."""

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self.archive = archive
        self.source = source
        self.members = {info.filename.partition("/")[2]: info for info in archive.infolist()}

    def traced(self) -> Traced:
        models = [name for name in self.members if name.startswith("models/") and name.endswith(".json")]
        if len(models) != 1:
            raise UnsupportedModel(f"{self.source}: holds {len(models)} programs; save one with torch.export.save")
        model = self._json(models[0])
        if model["schema_version"]["major"] != _MAJOR:
            raise UnsupportedModel(
                f"{self.source}: written by another torch ({model.get('torch_version', 'unknown')}, format "
                f"{model['schema_version']['major']}, not {_MAJOR}); save it again with the installed one"
            )
        name = models[0].removeprefix("models/").removesuffix(".json")
        stored = self._tensors(f"data/weights/{name}_weights_config.json", "data/weights/")
        stored |= self._tensors(f"data/constants/{name}_constants_config.json", "data/constants/")
        return self._graph(model["graph_module"], stored)

    def _graph(self, module: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Traced:
        graph, signature = module["graph"], module["signature"]
        known: dict[str, Tensor] = {}
        images: list[str] = []
        for spec in signature["input_specs"]:
            ((kind, value),) = spec.items()
            match kind:
                case "user_input":
                    images.append(_name(value["arg"]["as_tensor"]))
                case "parameter" | "buffer" | "tensor_constant":
                    target = value.get("parameter_name") or value.get("buffer_name") or value["tensor_constant_name"]
                    known[_name(value["arg"])] = stored[target]
                case _:
                    raise UnsupportedModel(f"{self.source}: holds a {kind}, which is not a tensor; save plain tensors")
        outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
        if len(images) != 1 or len(outputs) != 1:
            raise UnsupportedModel(
                f"{self.source}: takes {len(images)} inputs and returns {len(outputs)} values; "
                "export a module from one batch of images to one batch of logits"
            )
        meta = graph["tensor_values"][images[0]]
        batch, *shape = (size.get("as_int") for size in meta["sizes"])
        if None in shape:
            raise UnsupportedModel(f"{self.source}: its input size is not fixed; export with a free batch axis only")
        return Traced(
            known=known,
            image=images[0],
            shape=tuple(int(size) for size in shape),
            dtype=_DTYPES[meta["dtype"]],
            batch=None if batch is None else int(batch),
            steps=tuple(self._step(node, graph["tensor_values"]) for node in graph["nodes"]),
            output=_name(outputs[0]["as_tensor"]),
            source=self.source,
        )

    def _step(self, node: Mapping[str, Any], values: Mapping[str, Any]) -> Step:
        arguments = {a["name"] or str(i): self._argument(a["arg"]) for i, a in enumerate(node["inputs"])}
        outputs = [_output(o) for o in node["outputs"]]
        several = tuple(o if isinstance(o, str) else None for o in outputs)
        output = outputs[0] if len(outputs) == 1 and outputs[0] is not None else several
        stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
        dtype = _DTYPES[values[output]["dtype"]] if isinstance(output, str) and output in values else None
        return Step(self._target(node["target"]), arguments, output, _innermost(stack), dtype)

    def _target(self, name: str) -> Any:
        """An aten overload or one of a few Python functions, by name; nothing else is ever looked up."""
        match name.split("."):
            case ["torch", "ops", "aten", kind, overload]:
                packet = getattr(torch.ops.aten, kind, None) if kind.isidentifier() else None
                if isinstance(packet, torch._ops.OpOverloadPacket) and overload in packet.overloads():
                    return getattr(packet, overload)
            case ["_operator" | "operator" | "math", function] if function in PYTHON:
                return PYTHON[function]
        raise UnsupportedModel(f"{self.source}: {name!r} is not an aten operator; export with plain torch operators")

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        match kind:
            case "as_none" | "as_memory_format" | "as_layout" | "as_device":
                return None
            case "as_tensor":
                return Ref(_name(value))
            case "as_tensors":
                return [Ref(_name(v)) for v in value]
            case "as_optional_tensors":
                return [Ref(_name(v["as_tensor"])) if "as_tensor" in v else None for v in value]
            case "as_optional_tensor":
                return Ref(_name(value["as_tensor"])) if "as_tensor" in value else None
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return _symbolic(value)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [_symbolic(v) for v in value]
            case "as_scalar_type":
                return _DTYPES[value]
            case "as_int" | "as_float" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools" | "as_strings":
                return _numbers(value)
        raise UnsupportedModel(f"{self.source}: an argument of kind {kind} is not supported; use plain torch operators")

    def _tensors(self, config: str, folder: str) -> dict[str, Tensor]:
        entries = self._json(config)["config"] if config in self.members else {}
        return {name: self._tensor(name, entry, folder) for name, entry in entries.items()}

    def _tensor(self, name: str, entry: Mapping[str, Any], folder: str) -> Tensor:
        if entry["use_pickle"] or entry.get("tensor_meta") is None:
            raise UnsupportedModel(
                f"{self.source}: {name} is stored as a pickle, which could run any code; save plain tensors"
            )
        meta = entry["tensor_meta"]
        sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        if any(n < 0 for n in (*sizes, *strides, offset)) or math.prod(sizes) > LARGEST:
            raise InvalidInput(f"{self.source}: {name} has an impossible shape {sizes}")
        dtype = _DTYPES[meta["dtype"]]
        data = bytearray(self._read(folder + entry["path_name"]))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0, dtype=dtype)
        tensor = flat.as_strided(sizes, strides, offset)
        return torch.nn.Parameter(tensor, bool(meta["requires_grad"])) if entry.get("is_param") else tensor

    def _read(self, member: str) -> bytes:
        info = self.members[member]
        if info.file_size > 8 * LARGEST:
            raise InvalidInput(f"{self.source}: {member} is larger than llcert can hold")
        try:
            return self.archive.read(info)
        except Exception as error:  # zipfile and the decompressors behind it raise whatever the bytes provoke
            raise InvalidInput(f"{self.source}: {member} cannot be unpacked: {first_line(error)}") from error

    def _json(self, member: str) -> Any:
        return json.loads(self._read(member))


def _numbers(value: Any) -> Any:
    """Numbers as they stand in JSON, which writes infinity and NaN as strings."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if value in ("Infinity", "-Infinity", "NaN") else value


def _name(entry: Mapping[str, Any], key: str = "name") -> str:
    """The name an entry holds; raises TypeError where it is no text."""
    name = entry[key]
    if not isinstance(name, str):
        raise TypeError(f"{key} {str(name)[:50]} is no name")
    return name


def _symbolic(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    return Ref(_name(value, kind)) if kind == "as_name" else content


def _output(output: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    """The name of a result, or the names of a list of them; None for what nobody can use."""
    ((kind, value),) = output.items()
    if kind == "as_tensors":
        return tuple(_name(v) for v in value)
    if kind.startswith("as_sym"):
        return _name(value, "as_name")
    return _name(value) if kind == "as_tensor" else None


def _innermost(stack: str) -> str:
    """The path of the submodule that makes the call, from `key,path,type;key,path,type;...`."""
    parts = [entry.split(",") for entry in stack.split(";")]
    paths = [part[1] for part in parts if len(part) > 1 and part[1]]
    return f"in {paths[-1]}" if paths else ""
