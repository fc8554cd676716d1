"""`mec export --to hub`: a folder that timm loads, here or from the Hugging Face Hub, with a card."""

from pathlib import Path
from typing import Any

from mec.data.named import TORCHVISION
from mec.errors import BadInput
from mec.evaluation.results import RESULTS, TELLING
from mec.exports.options import Taken
from mec.exports.weights import WEIGHTS, compared, save_weights, timm_config, timm_model
from mec.networks.encoder_file import EncoderInfo
from mec.pages.page import HERE
from mec.runtime.files import file_hash, first_line, write_json, write_text
from mec.runtime.paths import run_folder
from mec.runtime.records import read_records

TERMS = {"digits": "CC BY 4.0", **{name: entry.terms for name, entry in TORCHVISION.items()}}


def export_hub(taken: Taken, out: Path) -> list[str]:
    """config.json, model.safetensors and README.md in a folder. Raises BadInput: timm alone builds no such network."""
    info, arguments = taken.info, timm_model(taken.info)
    if info.small_stem and "img_size" not in arguments:
        raise BadInput(
            f"timm.create_model builds no {info.backbone} with the stem for images under 64 px, so no folder of it can "
            "be loaded by name. --to timm writes the weights, and prints the lines that change the stem."
        )
    out.mkdir(exist_ok=True)
    save_weights(taken, out / WEIGHTS)
    del arguments["model"]
    write_json(out / "config.json", {**timm_config(info), "num_classes": 0, "model_args": arguments})
    write_text(out / "README.md", card(info, run_folder(taken.file) / RESULTS, file_hash(taken.file)))
    lines = ["import timm, torch", f"model = timm.create_model({f'local-dir:{out}'!r}, num_classes=0, pretrained=True)"]
    return [*compared(taken, out, lines), f"\n{out / 'README.md'}: the card; read it before you give it on"]


def card(info: EncoderInfo, results: Path, checkpoint: str) -> str:
    """What a reader has to know of an encoder; its figures are those that results.jsonl has of this very file."""
    import jinja2

    rows = [row(line) for line in read_records(results) if line.get("checkpoint") == checkpoint]
    terms = TERMS.get(info.data, "those of its images: please write them here")
    template = jinja2.Template((HERE / "card.md").read_text("utf-8"), keep_trailing_newline=True)
    return template.render(info=info, terms=terms, rows=rows)


def row(line: dict[str, Any]) -> list[str]:
    """A result as cells of the card's table."""
    spread, interval = line.get("spread"), line.get("interval")
    telling = ", ".join(f"{k} {v}" for k, v in line.get("settings", {}).items() if k in TELLING)
    cells = [f"{line['protocol']}{f' ({telling})' if telling else ''}", line["data"], line["split"], line["metric"],
             f"{line['value']:.4g} {line['unit']}", "" if spread is None else f"{spread:.3g}", line["n"],
             "{:.4g} to {:.4g}".format(*interval) if interval else ""]  # fmt: skip
    return [str(cell).replace("|", "/") for cell in cells]


def push(out: Path, name: str) -> str:
    """Upload the folder as OWNER/NAME; gives its address. Raises BadInput: it was not taken."""
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, exist_ok=True)
        return str(HfApi().upload_folder(folder_path=out, repo_id=name))
    except Exception as error:  # of the network, of names, of rights
        why = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise BadInput(f"--push {name}: not uploaded ({why}). {out} stays; `hf auth login` signs in.") from error
