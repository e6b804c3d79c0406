"""A byte-level GPT, trained on the text of the Python standard library that runs it.

Nothing is downloaded: the corpus is on every machine that has Python, and the same on the same machine.
"""

import functools
import math
import os
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.program import Layer, Program, Tied

VOCABULARY = 256
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def program(
    *,
    width: int = 96,
    blocks: int = 8,
    heads: int = 4,
    sequence: int = 64,
    dropout: float = 0.1,
    tied: bool = False,
    learning_rate: float = 7e-3,
    weight_decay: float = 0.1,
    warmup_steps: int = 2,
    decay_steps: int = 40,
    global_batch: int = 48,
    microbatch: int = 6,
    corpus_bytes: int = 4_000_000,
    seed: int = 0,
) -> Program:
    """The Program that the specs beside this file name; `tied` shares the token embedding with the head."""
    if width % heads:
        raise ValueError(f"width: {width} is not a multiple of heads {heads}")
    return Program(
        layers=(
            Layer(name="embed", build=lambda: Embed(width, sequence, dropout)),
            *(Layer(name=f"block-{i}", build=lambda: Block(width, heads, dropout)) for i in range(blocks)),
            Layer(name="head", build=lambda: Head(width)),
        ),
        loss=next_byte_loss,
        dataset=ByteWindows(read_corpus(corpus_bytes), sequence),
        optimizer=functools.partial(adamw, learning_rate=learning_rate, weight_decay=weight_decay),
        lr_schedule=functools.partial(warmup_then_cosine, warmup_steps=warmup_steps, decay_steps=decay_steps),
        clip_grad_norm=1.0,
        global_batch=global_batch,
        microbatch=microbatch,
        seed=seed,
        tied=(Tied(a="embed.tokens.weight", b="head.logits.weight"),) if tied else (),
    )


class Embed(nn.Module):
    """Token and learned position embeddings: bytes [batch, sequence] to [batch, sequence, width]."""

    def __init__(self, width: int, sequence: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.empty(sequence, width))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        # Scaled, so that the embedding has unit variance and yet is small enough to serve as the head's matrix.
        embedded = self.tokens(tokens) * math.sqrt(self.tokens.embedding_dim)
        output: Tensor = self.dropout(embedded + self.positions[: tokens.shape[1]])
        return output


class Block(nn.Module):
    """Pre-norm causal attention and a GELU MLP, each added to the residual stream [batch, sequence, width]."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.qkv, self.mlp_in):
            nn.init.normal_(linear.weight, std=width**-0.5)
        # A block starts as the identity, so that a deep and narrow model learns from its first steps.
        for linear in (self.attention_out, self.mlp_out):
            nn.init.zeros_(linear.weight)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.dropout(self.attend(self.attention_norm(stream)))
        hidden = nn.functional.gelu(self.mlp_in(self.mlp_norm(stream)))
        output: Tensor = stream + self.dropout(self.mlp_out(hidden))
        return output

    def attend(self, x: Tensor) -> Tensor:
        """Causal self-attention over the sequence."""
        # [batch, sequence, 3 * width] to three of [batch, head, sequence, width / heads]
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.attention_out(attended.transpose(1, 2).flatten(2))
        return output


class Head(nn.Module):
    """Final norm and the logits of the next byte."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.normal_(self.logits.weight, std=0.02)

    def forward(self, stream: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.norm(stream))
        return logits


class ByteWindows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Windows of the corpus that do not overlap; the target is the input one byte further on."""

    def __init__(self, corpus: bytes, sequence: int) -> None:
        self.bytes = torch.frombuffer(bytearray(corpus), dtype=torch.uint8)
        self.sequence = sequence

    def __len__(self) -> int:
        return (len(self.bytes) - 1) // self.sequence

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.sequence
        window = self.bytes[start : start + self.sequence + 1].long()
        return window[:-1], window[1:]


def read_corpus(limit_bytes: int) -> bytes:
    """The standard library's Python files in sorted order, without its tests, cut off at `limit_bytes`."""
    root = Path(sysconfig.get_path("stdlib"))
    corpus = bytearray()
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                corpus += Path(folder, name).read_bytes()
            if len(corpus) >= limit_bytes:
                return bytes(corpus[:limit_bytes])
    return bytes(corpus)


def next_byte_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def adamw(parameters: list[nn.Parameter], *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices, and neither norms nor biases."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def warmup_then_cosine(step: int, *, warmup_steps: int, decay_steps: int) -> float:
    """Factor on the learning rate: up linearly, then down along a cosine to a tenth, where it stays."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - warmup_steps))
    return 0.55 + 0.45 * math.cos(math.pi * progress)
