"""Compressed weights and the sparse decoder: `SparseDecoder.open(packed_file)`; files are made by `sparse.pack`."""

from owled_ros.sparse.decoder import SparseDecoder
from owled_ros.sparse.protocol import Cache, Decoder, DecoderFacts, Generation

__all__ = ["Cache", "Decoder", "DecoderFacts", "Generation", "SparseDecoder"]
