"""Compressed weights and the sparse decoder: `SparseDecoder.open(packed_file)`; files are made by `sparse.pack`."""

from owled_ros.sparse.decoder import Cache, Decoder, DecoderFacts, Generation, SparseDecoder

__all__ = ["Cache", "Decoder", "DecoderFacts", "Generation", "SparseDecoder"]
