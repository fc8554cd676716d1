"""`mec export --to hub`: a folder that timm loads, here or from the Hugging Face Hub, with a card."""

from pathlib import Path
from typing import Any

from mec.data.named import TORCHVISION
from mec.errors import BadInput
from mec.evaluation.results import RESULTS, TELLING
from mec.exports.options import Taken
from mec.exports.weights import WEIGHTS, compared, save_weights, timm_config, timm_lines, timm_model, transform_lines
from mec.networks.encoder_file import EncoderInfo
from mec.pages.page import HERE
from mec.runtime.files import file_hash, first_line, write_json, write_text
from mec.runtime.paths import run_folder
from mec.runtime.records import read_records

TERMS = {"digits": "CC BY 4.0", **{name: entry.terms for name, entry in TORCHVISION.items()}}


def export_hub(taken: Taken, out: Path) -> list[str]:
    """model.safetensors, README.md and, unless the stem is one that timm builds by no name, config.json in a folder."""
    info, arguments = taken.info, timm_model(taken.info)
    of_stem = [] if "img_size" in arguments or not info.small_stem else timm_lines(taken, Path(WEIGHTS))
    out.mkdir(parents=True, exist_ok=True)
    save_weights(taken, out / WEIGHTS)
    if not of_stem:
        del arguments["model"]
        write_json(out / "config.json", {**timm_config(info), "num_classes": 0, "model_args": arguments})
    write_text(out / "README.md", card(info, run_folder(taken.file) / RESULTS, file_hash(taken.file), of_stem))
    by_name = f"model = timm.create_model({f'local-dir:{out}'!r}, num_classes=0, pretrained=True)"
    lines = timm_lines(taken, out / WEIGHTS) if of_stem else ["import timm, torch", by_name]
    return [*compared(taken, out, lines), f"\n{out / 'README.md'}: the card; read it before you give it on"]


def card(info: EncoderInfo, results: Path, checkpoint: str, of_stem: list[str]) -> str:
    """What a reader has to know of an encoder; its figures are those that results.jsonl has of this very file."""
    import jinja2

    rows = [row(line) for line in read_records(results) if line.get("checkpoint") == checkpoint]
    terms = TERMS.get(info.data, "those of its images: please write them here")
    template = jinja2.Template((HERE / "card.md").read_text("utf-8"), keep_trailing_newline=True)
    return template.render(info=info, terms=terms, rows=rows, lines=of_stem and [*of_stem, *transform_lines(info)])


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
