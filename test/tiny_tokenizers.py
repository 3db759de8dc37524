"""Small tokenizers trained here: byte-level, and in the manner of SentencePiece. Nothing is downloaded."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SAID = (
    "You drive a car. Your speed is 5.0 m/s. What should the car do now? What is to be seen? Answer with one line: cruise, follow, "
    "stop, yield; acceleration +1.0 m/s2, steering -0.1 rad. Nearest first. Isn't the traffic light red? user assistant system"
)
WORDS = 420  # entries of the vocabulary beside the special tokens
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """Train a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [SAID], trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def piece_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """Train a BPE with the space mark of SentencePiece, bytes for the rest, and a beginning added to every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = [*SPECIAL[:4], *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator([SAID], trainer)
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer
