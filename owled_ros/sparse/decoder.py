"""The sparse decoder: opens a packed model and decodes with it on the CPU. Needs numpy; torch only as a fallback.

`SparseDecoder.open` runs the native kernels (csrc/) where the library is built or can be built, and plain torch
(`owled_ros.sparse.fallback`) where it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from owled_ros.errors import OwledError
from owled_ros.sparse.protocol import Decoder

DEFAULT_THREADS = 1  # never slower on busy cores; two help a model that does not fit the cache (docs/kernels.md)


class SparseDecoder:
    """Opens packed models."""

    @staticmethod
    def open(
        packed: Path | str,
        threads: int = DEFAULT_THREADS,
        kernel: str = "auto",
        *,
        copy: bool = True,
        verify: bool = True,
        cpus: Sequence[int] = (),
    ) -> Decoder:
        """Open a packed model (docs/packed_format.md).

        Args:
            packed: File written by `owled_ros.sparse.pack`.
            threads: Including the calling one; further ones sleep between calls and never hold a step up.
            kernel: "auto", a kernel of `owled_ros.sparse.library.kernels()`, or "torch" for the fallback.
            copy: Copy the weights into huge pages: decodes about 15 % faster. False maps the file instead, opens at
                once and shares the memory with other processes.
            verify: Check the checksum over the file.
            cpus: Core of each thread; the first entry (the calling thread) is not touched. Empty pins nothing.

        Raises:
            OwledError: The file is damaged or of another version, or the kernel cannot run on this CPU.
        """
        from owled_ros.sparse import library

        path = Path(packed)
        if not path.is_file():
            raise OwledError(f"{path}: no packed model there; make one with `owled pack`")
        if kernel == "torch" or (kernel == "auto" and not library.available()):
            from owled_ros.sparse.fallback import TorchDecoder

            return TorchDecoder(path, threads=threads, verify=verify)
        from owled_ros.sparse.native import NativeDecoder

        return NativeDecoder(path, threads=threads, kernel=kernel, copy=copy, verify=verify, cpus=cpus)
