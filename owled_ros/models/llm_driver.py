"""LLM-Driver (arXiv 2310.01957, section IV) as a Hugging Face model: vectors of a scene, a Perceiver, an adapter, any causal LM.

Needs torch and transformers. `register` makes it known to AutoConfig and AutoModelForImageTextToText, so that no code of a model
directory is ever run. Letters: B scenes, L latents, C width, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from owled_ros.models.vector_encoder import VectorConfig, VectorEncoder

MODEL_TYPE = "llm_driver"


class LlmDriverConfig(PreTrainedConfig):
    """Encoder and host."""

    model_type = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "image_token_id": "vector_token_id",
        "image_token_index": "vector_token_id",
    }
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vector_config": SubConfigSpec(config_class=VectorConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vector_config: Any = None  # given as configuration or dictionary; a VectorConfig once made
    text_config: Any = None  # that of the host
    vector_token_id: int = 3  # stands in the prompt once for every latent
    tie_word_embeddings: bool = False


@dataclass
class LlmDriverOutput(ModelOutput):
    """What the whole model gives."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LlmDriverPreTrainedModel(PreTrainedModel):
    """What both classes share."""

    config_class = LlmDriverConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  (as declared by the base class)


class Adapter(nn.Module):
    """From the encoder's width to the host's."""

    def __init__(self, config: LlmDriverConfig) -> None:
        super().__init__()
        host = config.text_config.hidden_size
        self.fc1, self.fc2 = nn.Linear(config.vector_config.hidden_size, host), nn.Linear(host, host)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return (B, L, C of the host)."""
        return self.fc2(functional.gelu(self.fc1(latents)))


class LlmDriverModel(LlmDriverPreTrainedModel):
    """Encoder, adapter and the host without its head."""

    def __init__(self, config: LlmDriverConfig) -> None:
        super().__init__(config)
        self.vector_encoder = VectorEncoder(config.vector_config)
        self.adapter = Adapter(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the host's table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give the host another table."""
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """Return the host."""
        return self.language_model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        vectors: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read tokens (B, T), in which the latents of a scene take the places of its vector tokens."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if vectors is not None:
            inputs_embeds = self._put_in(input_ids, inputs_embeds, vectors)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def _put_in(self, ids: torch.Tensor | None, embedded: torch.Tensor, scenes: torch.Tensor) -> torch.Tensor:
        features = self.adapter(self.vector_encoder(scenes).last_hidden_state).to(embedded.dtype)
        if ids is None:
            raise ValueError("vectors need input_ids: embeddings do not tell where the scene stands")
        places = ids == self.config.vector_token_id  # (B, T)
        if int(places.sum()) != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"{int(places.sum())} vector tokens for {features.shape[0]} scenes of {features.shape[1]} latents"
            )
        return embedded.masked_scatter(places[..., None], features)


class LlmDriverForConditionalGeneration(LlmDriverPreTrainedModel, GenerationMixin):
    """The whole model."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012  (as above)

    def __init__(self, config: LlmDriverConfig) -> None:
        super().__init__(config)
        self.model = LlmDriverModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the host's table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give the host another table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        """Return the host."""
        return self.model.language_model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        vectors: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> LlmDriverOutput:
        """Return logits (B, T, V), and with labels the loss."""
        kwargs.pop("return_dict", None)
        output = self.model(
            input_ids=input_ids,
            vectors=vectors,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return LlmDriverOutput(loss, logits, output.past_key_values, output.hidden_states, output.attentions)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, vectors: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Hand the vectors on with the first tokens only; afterwards they are in the cache."""
        first = kwargs.get("is_first_iteration", False)
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore
        if first or not kwargs.get("use_cache", True):
            prepared["vectors"] = vectors
        return prepared


def register() -> None:
    """Make the classes known to transformers' Auto classes."""
    AutoConfig.register(VectorConfig.model_type, VectorConfig, exist_ok=True)
    AutoConfig.register(MODEL_TYPE, LlmDriverConfig, exist_ok=True)
    AutoModel.register(VectorConfig, VectorEncoder, exist_ok=True)
    AutoModel.register(LlmDriverConfig, LlmDriverModel, exist_ok=True)
    AutoModelForImageTextToText.register(LlmDriverConfig, LlmDriverForConditionalGeneration, exist_ok=True)
