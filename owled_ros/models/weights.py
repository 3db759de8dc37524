"""Which weight files a model directory really has, and what lies in them. Needs the standard library only.

The rule is transformers' own: the file that config.json names, else model.safetensors, else the shards of
model.safetensors.index.json. Whatever else lies beside is not the model. Only headers are read here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.files import sha256_file

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library allows
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NOT_SAFETENSORS = {  # first bytes: what such a file is
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull` in the clone",
    b"PK\x03\x04": "a pickled torch file: convert it with save_pretrained, pickles are refused",
    b"\x80\x02": "a pickled torch file: convert it with save_pretrained, pickles are refused",
    b"GGUF": "a GGUF file: give it by its own name, ending in .gguf",
    b"\x89HDF": "an HDF5 file: convert it with save_pretrained",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a header describes it."""

    dtype: str  # as safetensors spells it: F32, BF16, F8_E4M3, …
    shape: tuple[int, ...]
    file: Path

    @property
    def size(self) -> int:
        """Count the elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Weights:
    """The weight files of a directory in the order of their names, and all tensors in them by name."""

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def sha256(self) -> str:
        """The hash that manifests and packed weights name these weights by."""
        return hash_of_weights(self.files)

    @property
    def dtype(self) -> str:
        """Name the narrowest type that holds every stored float exactly, whatever the shards are."""
        kinds = {FLOATS[tensor.dtype] for tensor in self.tensors.values() if tensor.dtype in FLOATS}
        if "float64" in kinds:
            return "float64"
        return kinds.pop() if len(kinds) == 1 else "float32"


def find_weights(directory: Path) -> Weights:
    """Read the headers of all weight files of a directory.

    Raises:
        OwledError: no weights, a file that is missing, cut off or no safetensors, or an index that its shards contradict.
    """
    files = weight_files(directory)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise OwledError(
                    f"{name} is in {tensors[name].file.name} and in {file.name} of {directory}: which one counts cannot be "
                    "told; download the model again or write it again with save_pretrained"
                )
            tensors[name] = tensor
    if not tensors:
        raise OwledError(f"{directory} has weight files without any tensor: the model is empty")
    places = _weight_map(directory)
    if places is not None:
        _check_against_index(directory, places, tensors)
    return Weights(files, tensors)


def hash_of_weights(files: Iterable[Path]) -> str:
    """Hash names and contents of weight files, in their order."""
    lines = (f"{file.name}:{sha256_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weight_files(directory: Path) -> tuple[Path, ...]:
    """List the weight files of a model directory.

    Raises:
        OwledError: none, or one that is missing; says what lies there instead.
    """
    names = _named_files(directory)
    for name in names:
        if not (directory / name).is_file():
            kind = "a link to nothing" if (directory / name).is_symlink() else "missing"
            raise OwledError(f"{directory / name} is {kind}: the model is incomplete, download it again")
    if len(names) == 1 and names[0] == WHOLE and (directory / INDEX).is_file():
        logger.warning("%s has %s and %s: transformers reads %s, and so do we", directory, WHOLE, INDEX, WHOLE)
    return tuple(directory / name for name in names)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file holds, without its tensors.

    Raises:
        OwledError: a pointer, a web page, a pickle, a file that is cut off or damaged.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(64)
            _refuse_other_kinds(file, head, size)
            length = struct.unpack("<Q", head[:8])[0]
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise OwledError(f"{file} is cut off or no safetensors file: download it again")
            stream.seek(8)
            content = json.loads(stream.read(length))
        entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
        found = {
            name: StoredTensor(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), file)
            for name, entry in entries.items()
        }
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except OSError as err:
        raise OwledError(f"{file} cannot be read: {err}") from err
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as err:
        raise OwledError(f"{file} is damaged: its header is no safetensors header ({err}); download it again") from err
    if size != 8 + length + end:
        raise OwledError(
            f"{file} has {size} bytes, its header says {8 + length + end}: it was cut off or damaged, download it again"
        )
    return found


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json as a mapping; say what is wrong with it in one sentence."""
    return read_json(directory / "config.json", "the model's configuration")


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a file that must be there.

    Raises:
        OwledError: missing, a Git LFS pointer, a web page, no JSON, or JSON of another kind.
    """
    try:
        data = file.read_bytes()
        refuse_pages(file, data[:64])
        content = json.loads(data.decode("utf-8"))
    except OSError as err:
        raise OwledError(f"{file} cannot be read ({err.strerror}): expected {what}") from err
    except (ValueError, RecursionError) as err:
        raise OwledError(f"{file} is not valid JSON ({err}): expected {what}, download it again") from err
    if not isinstance(content, dict):
        raise OwledError(f"{file} holds a {type(content).__name__}, expected a JSON object: {what}, download it again")
    return content


def _named_files(directory: Path) -> list[str]:
    if (directory / "config.json").is_file():
        explicit = read_config(directory).get("transformers_weights")
        if isinstance(explicit, str) and not explicit.endswith(".index.json"):
            return [_inside(directory, explicit, "config.json")]
    if (directory / WHOLE).is_file() or (directory / WHOLE).is_symlink():
        return [WHOLE]
    places = _weight_map(directory)
    if places is not None:
        return sorted(set(places.values()))
    raise OwledError(f"{directory} holds no safetensors weights ({WHOLE} or {INDEX}){_what_instead(directory)}")


def _weight_map(directory: Path) -> dict[str, str] | None:
    """Return the file of every tensor as the index tells it, None where the weights are one file."""
    if (directory / WHOLE).is_file() or not (directory / INDEX).is_file():
        return None
    places = read_json(directory / INDEX, "the index of the weight files").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise OwledError(f"{directory / INDEX} has no weight_map: download it again")
    return {str(name): _inside(directory, place, INDEX) for name, place in places.items()}


def _inside(directory: Path, name: Any, teller: str) -> str:
    pure = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("/")
    if pure.is_absolute() or ".." in pure.parts or pure.suffix != ".safetensors":
        raise OwledError(
            f"{directory / teller} names {name!r} as weights: expected a .safetensors file of this directory"
        )
    return str(pure)


def _check_against_index(directory: Path, places: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, place in places.items():
        if name not in tensors or tensors[name].file != directory / place:
            raise OwledError(
                f"{directory / INDEX} says that {name} is in {place}, but it is not: download the model again"
            )
    extra = next((name for name in tensors if name not in places), None)
    if extra is not None:
        raise OwledError(
            f"{tensors[extra].file} holds {extra}, which {INDEX} does not name: shard and index are not of one model, "
            "download it again"
        )


def _what_instead(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    adapters = [name for name in names if name.startswith("adapter_")]
    if adapters:
        return f"; {adapters[0]} is a LoRA adapter: merge it into its base with `owled merge-adapter`"
    for suffix, advice in (
        (".gguf", "give that file by its name"),
        (".safetensors", "that is no file that transformers would load; convert the model with save_pretrained"),
        (".bin", "pickled weights are refused; convert the model with save_pretrained"),
        (".pt", "pickled weights are refused; convert the model with save_pretrained"),
        (".pth", "pickled weights are refused; convert the model with save_pretrained"),
    ):
        found = next((name for name in names if name.endswith(suffix)), None)
        if found:
            return f"; there is {found}: {advice}"
    return ": expected a Hugging Face directory; convert the model with save_pretrained first"


def _refuse_other_kinds(file: Path, head: bytes, size: int) -> None:
    for start, kind in NOT_SAFETENSORS.items():
        if head.startswith(start):
            raise OwledError(f"{file} is {kind}")
    refuse_pages(file, head)
    if size < 10:
        raise OwledError(f"{file} has {size} bytes: it is no safetensors file, download it again")


def refuse_pages(file: Path, head: bytes) -> None:
    """Raise OwledError when the first bytes of a file are those of a Git LFS pointer or a web page."""
    if head.startswith(b"version https://git-lfs"):
        raise OwledError(f"{file} is {NOT_SAFETENSORS[b'version https://git-lfs']}")
    if head.lstrip().startswith(b"<"):
        raise OwledError(f"{file} is a web page: the download went wrong, download it again")
