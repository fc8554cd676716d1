"""What a rank holds by `--strategy ddp` and `fsdp`, with and without `--checkpoint-activations`; CPU ranks, gloo.

python benchmarks/sharding.py --ranks 4 --backbone vit_small_patch16_224 --size 16 --batch-size 16 --steps 10
python benchmarks/sharding.py --predict vit_giant_patch14_dinov2 --ranks 8     GiB a GPU by the formula, nothing is run
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mec.data.opening import open_data
from mec.networks.heads import predictor, projector
from mec.recipes.recipe import changed
from mec.recipes.table import RECIPES
from mec.runtime.device import start_fabric
from mec.runtime.distributed import current
from mec.runtime.machine import peak_memory, reset_peak_memory
from mec.runtime.sharding import own
from mec.training.options import Options
from mec.training.pretrain import make_trainer
from mec.training.trainer import Trainer

WAYS = {"ddp": ("ddp", False), "ddp, twice": ("ddp", True), "fsdp": ("fsdp", False), "fsdp, twice": ("fsdp", True)}
HEADS = ["network.projector=[2048,256]", "network.predictor=[512,256]", "network.target=momentum"]


def held(tensors: Iterable[torch.Tensor]) -> float:
    """MiB of what this rank has of tensors."""
    return sum(t.numel() * t.element_size() for t in own(tensors)) / 2**20


def holdings(trainer: Trainer) -> dict[str, float]:
    parameters = [*trainer.network.parameters()]
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return {
        "parameters": held(parameters), "gradients": held(p.grad for p in parameters if p.grad is not None),
        "optimizer": held(states), "buffers": held(trainer.network.buffers()),
        "whole encoder": held(trainer.encoder.parameters()) if trainer.sharded and not trainer.ranks.rank else 0.0,
    }  # fmt: skip


def rank(asked: argparse.Namespace) -> dict[str, Any]:
    """Steps of one rank: what it holds after the last, the most that the process took beyond its start, losses."""
    torch.set_num_threads(1)
    strategy, twice = WAYS[asked.way]
    fabric, group = start_fabric("cpu", strategy), current()
    settings = [f"views.size={asked.size}", *HEADS, f"batch_size={asked.batch_size}", "method=mec", "precision=fp32"]
    recipe = changed(RECIPES["small-vit"], [f"network.backbone={asked.backbone}", "settings.distortion=guaranteed"])
    recipe = changed(recipe, settings)
    options = Options(strategy=strategy, checkpoint_activations=twice, seed=0)
    images = open_data("digits", limit=asked.batch_size * asked.steps)
    trainer, _ = make_trainer("digits", images, recipe, "small-vit", options, fabric, group)
    reset_peak_memory("cpu")
    before = now()
    losses, holds, began = [], {}, 0.0
    for step, batch in enumerate(trainer.batches.batches(0, asked.steps, group.share)):
        began = time.perf_counter() if step == 1 else began
        at = trainer.at(step, asked.steps)
        trainer.set_lr(at["lr"])
        loss, *_ = trainer.loss_and_gradient(batch, step, at["settings"])
        trainer.limit_gradients(step)
        trainer.optimizer.step()
        holds = holdings(trainer)
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.network.update_target(at["target_momentum"])
        losses.append(float(loss))
    seconds = (time.perf_counter() - began) / (asked.steps - 1)
    steps = (peak_memory("cpu") - before) * 1024
    reset_peak_memory("cpu")
    before = now()
    states = {name: part.state_dict() for name, part in trainer.whole_parts().items()}
    saving = (peak_memory("cpu") - before) * 1024
    return {"losses": losses, "held": holds, "peak": steps, "saving": saving, "seconds": seconds, "parts": len(states)}


def now() -> float:
    """GiB resident."""
    return next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x) / 2**20


def world(asked: argparse.Namespace, way: str) -> list[dict[str, Any]]:
    """What each rank found."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(asked.ranks)}
        free.close()
        words = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--out", folder]
        started = [
            subprocess.Popen(words, env={**os.environ, **about, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(asked.ranks)
        ]
        assert [process.wait() for process in started] == [0] * asked.ranks
        return [json.loads(Path(folder, str(r)).read_text()) for r in range(asked.ranks)]


def predicted(backbone: str, ranks: int) -> str:
    """GiB a GPU of parameters, target network, gradients and AdamW's two moments, in float32; no activations."""
    import timm

    with torch.device("meta"):
        encoder = timm.create_model(backbone, num_classes=0)
        head = projector(encoder.num_features, (4096, 4096, 256))
        online = [encoder, head, predictor(256, (4096, 256))]
    towers = [sum(p.numel() for part in parts for p in part.parameters()) for parts in (online, online[:2])]
    trained, target = towers
    block = max(sum(p.numel() for p in b.parameters()) for b in [*encoder.blocks, head])
    whole = 4 * (4 * trained + target) / 2**30
    share, gathered = whole / ranks, 4 * 3 * block / 2**30
    encoder_too = 4 * sum(p.numel() for p in encoder.parameters()) / 2**30
    return (
        f"{backbone}: {trained / 1e6:,.0f} M trained; ddp {whole:.1f} GiB; fsdp on {ranks}: {share:.2f} GiB, for the "
        f"largest block {gathered:.2f} more (three times), on the first rank {encoder_too:.1f} more"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=16, help="px of a view")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--ways", default=";".join(WAYS), help="with semicolons between")
    parser.add_argument("--predict", metavar="BACKBONE")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.predict:
        print(predicted(arguments.predict, arguments.ranks))
    elif arguments.way:
        (arguments.out / os.environ["RANK"]).write_text(json.dumps(rank(arguments)))
    else:
        first: list[float] = []
        for name in arguments.ways.split(";"):
            found = world(arguments, name)
            first = first or found[0]["losses"]
            apart = max(abs(a - b) for a, b in zip(first, found[0]["losses"]))
            print(f"{name}: losses apart by {apart:.1e}, {found[0]['seconds']:.2f} s a step")
            for number, each in enumerate(found):
                kinds = ", ".join(f"{kind} {size:.1f}" for kind, size in each["held"].items())
                most = f"at most in a step {each['peak']:.0f}, to save {each['saving']:.0f}"
                print(f"  rank {number}, MiB: {kinds}; {most}")
