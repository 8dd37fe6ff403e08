"""DETR's transformer (Carion et al. 2020, "End-to-End Object Detection with Transformers", section
3.2 and appendix A.3): post-norm layers, with positions added to queries and keys in every layer.

The layers are torch's own with another `forward`: their parameters have the names of the published
weights, and torch is what the project depends on anyway.

Shape legend:
    N: images    S: cells of the feature map    Q: object queries    E: hidden dimension
    L: decoder layers
"""

import torch
from torch import Tensor, nn

__all__ = ["Transformer"]


class EncoderLayer(nn.TransformerEncoderLayer):
    """Self-attention over the cells, then the feed-forward network."""

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """(N, S, E), (N, S, E), (N, S) -> (N, S, E)"""
        placed = x + position
        attended, _ = self.self_attn(
            placed, placed, x, key_padding_mask=padding, need_weights=False
        )
        x = self.norm1(x + self.dropout1(attended))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout2(self.linear2(hidden)))


class DecoderLayer(nn.TransformerDecoderLayer):
    """Self-attention over the queries, attention to the cells, then the feed-forward network."""

    def forward(
        self, x: Tensor, query: Tensor, memory: Tensor, keys: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Of x (N, Q, E), the position `query` (N, Q, E), and cells (N, S, E) without and with
        their position: (N, Q, E)."""
        placed = x + query
        attended, _ = self.self_attn(placed, placed, x, need_weights=False)
        x = self.norm1(x + self.dropout1(attended))
        attended, _ = self.multihead_attn(
            x + query, keys, memory, key_padding_mask=padding, need_weights=False
        )
        x = self.norm2(x + self.dropout2(attended))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm3(x + self.dropout3(self.linear2(hidden)))


class Encoder(nn.Module):
    def __init__(self, layers: list[EncoderLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        return x


class Decoder(nn.Module):
    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(
        self, query: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None
    ) -> Tensor:
        """(L, N, Q, E): what each layer hands on, through one norm for all."""
        x, keys, outputs = torch.zeros_like(query), memory + position, []
        for layer in self.layers:
            x = layer(x, query, memory, keys, padding)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """Encoder over a feature map's cells, decoder over object queries."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dim_feedforward: int,
        dropout: float,
    ):
        super().__init__()
        of_layer = {
            "d_model": dim,
            "nhead": num_heads,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "batch_first": True,
        }
        self.dim = dim
        self.encoder = Encoder([EncoderLayer(**of_layer) for _ in range(num_encoder_layers)])
        self.decoder = Decoder(
            [DecoderLayer(**of_layer) for _ in range(num_decoder_layers)], nn.LayerNorm(dim)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, cells: Tensor, position: Tensor, padding: Tensor | None, queries: Tensor
    ) -> Tensor:
        """
        Args:
            cells: (N, S, E)
            position: of the cells, (N, S, E).
            padding: (N, S) bool, True for cells that nothing may attend to; None for none.
            queries: learned positions of the object queries, (Q, E).

        Returns:
            (L, N, Q, E), after each layer of the decoder.
        """
        memory = self.encoder(cells, position, padding)
        queries = queries.expand(len(cells), -1, -1)
        return self.decoder(queries, memory, position, padding)
