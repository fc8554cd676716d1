"""Text: pretrain a small transformer on paragraphs, not images, and see what a handful of labels is worth.

The text is SciPy's own documentation; a paragraph's class is the subpackage whose docstring it is from. Two minutes."""

import re
from collections import Counter
from pathlib import Path

import scipy
import torch
from measured import few_labels, show
from torch import Tensor, nn

SUBJECTS = ("integrate", "interpolate", "linalg", "optimize", "signal", "spatial", "special", "stats")
WORDS, LONGEST, SPAN = 2000, 48, 24  # known words; words of a paragraph, and of a view
SETTINGS = ["network.projector=[128,64]", "settings.distortion=0.1", "optimizer.name=adamw", "optimizer.base_lr=0.02"]


def paragraphs(subject: str) -> list[list[str]]:
    """The words of 300 paragraphs, evenly from all; of those that begin alike, one."""
    files = sorted(Path(scipy.__file__).with_name(subject).rglob("*.py"))
    docs = [doc for file in files for doc in re.findall('"""(.*?)"""', file.read_text("utf-8"), re.DOTALL)]
    parts = [re.findall("[a-z]+", part.lower()) for doc in docs for part in doc.split("\n\n") if ">>>" not in part]
    kept = [*{tuple(part[:8]): part for part in parts if len(part) >= 16}.values()]
    return kept[:: len(kept) // 300][:300]


def view(x: Tensor) -> Tensor:
    """A span [m, SPAN] of each paragraph [m, LONGEST], a fifth of its words 0."""
    place = (torch.rand(len(x), 1) * ((x > 0).sum(1, keepdim=True) - SPAN).clamp(min=0)).long() + torch.arange(SPAN)
    return x.gather(1, place).masked_fill(torch.rand(place.shape) < 0.2, 0)


class Encoder(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.words, self.places = (nn.Parameter(0.1 * torch.randn(n, width)) for n in (WORDS + 1, LONGEST))
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0, batch_first=True, norm_first=True)
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        known = (x > 0)[:, :, None]
        hidden = self.layer(self.words[x] + self.places[: x.shape[1]]) * known
        return self.norm(hidden.sum(1) / known.sum(1).clamp(min=1))


def main(epochs: int = 14, seeds: int = 3) -> dict[str, list[float]]:
    texts = [text for subject in SUBJECTS for text in paragraphs(subject)]
    common = Counter(word for text in texts[1::3] + texts[2::3] for word in text).most_common(WORDS)
    numbers = {word: number for number, (word, _) in enumerate(common, 1)}
    x = torch.tensor([([numbers[w] for w in text if w in numbers] + LONGEST * [0])[:LONGEST] for text in texts])
    row = torch.arange(len(x))
    train, test = ((x[part], row[part] // 300) for part in (row % 3 > 0, row % 3 == 0))
    bag = nn.EmbeddingBag.from_pretrained(torch.eye(WORDS + 1), mode="sum", padding_idx=0)  # counts of words
    return few_labels(train, test, Encoder, view, SETTINGS, batch_size=128, epochs=epochs, seeds=seeds, raw=bag)


if __name__ == "__main__":
    show("SciPy's documentation, eight subjects: accuracy, %", main())
