"""The whole model: image encoder, text model, language-model head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.model.bridge import ImageEncoder
from shared.model.cache import KVCache
from shared.model.config import Step3Config
from shared.model.decoder import Step3TextModel

# Dimension key: B batch, T new tokens, F image tokens of the whole batch, H hidden, V vocabulary


# A subclass of the encoder, because the released checkpoint has the encoder's modules at its root.
class Step3ForConditionalGeneration(ImageEncoder):
    """`state_dict()` has exactly the released checkpoint's names and shapes."""

    def __init__(self, config: Step3Config) -> None:
        super().__init__(config)
        self.config = config
        self.model = Step3TextModel(config.text)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    def embed(self, input_ids_BT: Tensor, image_features_FH: Tensor | None = None) -> Tensor:
        """Token embeddings [B, T, H], with image features over the `<im_patch>` tokens in order.

        Raises:
          ValueError: there are more or fewer features than `<im_patch>` tokens.
        """
        embeddings_BTH: Tensor = self.model.embed_tokens(input_ids_BT)
        if image_features_FH is None:
            return embeddings_BTH
        is_image_BT = input_ids_BT == self.config.image_token_id
        wanted = int(is_image_BT.sum())
        if wanted != image_features_FH.shape[0]:
            raise ValueError(
                f"image_features: {image_features_FH.shape[0]} rows for {wanted} tokens with id "
                f"{self.config.image_token_id}; expand the prompt with expand_prompt"
            )
        return embeddings_BTH.masked_scatter(
            is_image_BT.unsqueeze(-1), image_features_FH.to(embeddings_BTH.dtype)
        )

    def forward(
        self,
        input_ids: Tensor,
        image_features_FH: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits [B, T, V], or [T, V] for ids [T].

        Args:
          input_ids: int64 [B, T] or [T].
          image_features_FH: crops, then thumbnail, of every image in order (`encode_images`).
          positions: of the shape of the ids; default: counted on from the cache's length.
          document_ids: of the shape of the ids; packed training rows attend within a document.
            Equal numbers mean the same document; give each its positions from 0, too.
          cache: earlier tokens' keys and values; takes the new ones.
        """
        if input_ids.dim() == 1:
            positions, document_ids = (
                None if row is None else row.unsqueeze(0) for row in (positions, document_ids)
            )
            logits_1TV = self(
                input_ids.unsqueeze(0),
                image_features_FH,
                positions=positions,
                document_ids=document_ids,
                cache=cache,
            )
            return torch.squeeze(logits_1TV, 0)
        h_BTH = self.model(
            self.embed(input_ids, image_features_FH),
            positions_BT=positions,
            document_ids_BT=document_ids,
            cache=cache,
        )
        logits_BTV: Tensor = self.lm_head(h_BTH)
        return logits_BTV
