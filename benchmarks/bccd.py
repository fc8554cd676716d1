"""What an encoder trained without labels is worth to a detector of blood cells: BCCD, trainval to test.

    python benchmarks/bccd.py --bccd DIR --out runs/bccd [--cifar10 RUN] [--iterations 100,300] [--seeds 0,1,2]
    python benchmarks/bccd.py --bccd DIR --as-coco DIR/coco     # the same boxes as COCO's files, and no more

Three starts of one network: random weights; an encoder that `mec pretrain` made of BCCD's own trainval images, without
labels, in ten minutes; and one of CIFAR-10's. Each is fine-tuned as a detector by the preset `small` with equal
iterations, learning rates and seeds, each budget with its own schedule. A folder a run: started again, the same command
reads what is finished and resumes what is not. Prints AP50 over iterations, the mean and spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from xml.etree import ElementTree

import mec

BACKBONE = "resnet10-tiny"
SIDE = 96  # px of the views: cells have 50 to 230 px of 640 x 480


def as_coco(bccd: Path, out: Path) -> None:
    """OUT/annotations/SPLIT.json with boxes alone, and OUT/images/SPLIT/. VOC counts px from 1, both ends of a box."""
    for split in ("trainval", "test"):
        images, objects, names = [], [], ["Platelets", "RBC", "WBC"]
        for number, stem in enumerate((bccd / "ImageSets" / "Main" / f"{split}.txt").read_text().split()):
            root = ElementTree.parse(bccd / "Annotations" / f"{stem}.xml").getroot()
            width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
            images.append({"id": number, "file_name": f"{stem}.jpg", "width": width, "height": height})
            for one in root.iter("object"):
                x0, y0, x1, y1 = (int(one.findtext(f"bndbox/{end}", "0")) for end in ("xmin", "ymin", "xmax", "ymax"))
                box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
                category = names.index(one.findtext("name", "")) + 1
                about = {"id": len(objects) + 1, "image_id": number, "category_id": category, "bbox": box}
                objects.append({**about, "area": box[2] * box[3], "iscrowd": 0})
            place = out / "images" / split / f"{stem}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bccd / "JPEGImages" / f"{stem}.jpg", place)
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        (out / "annotations").mkdir(exist_ok=True)
        written = {"images": images, "annotations": objects, "categories": categories}
        (out / "annotations" / f"{split}.json").write_text(json.dumps(written))


def own_images(bccd: Path, out: Path) -> Path:
    """The photographs of trainval alone: those of the test are not looked at, not even without labels."""
    folder = out / "trainval-images"
    if not folder.exists():
        part = out / "trainval-images.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in (bccd / "ImageSets" / "Main" / "trainval.txt").read_text().split():
            shutil.copy(bccd / "JPEGImages" / f"{name}.jpg", part)
        part.rename(folder)
    return folder


def pretrained(images: Path, run: Path, minutes: float) -> Path:
    if not (run / "encoder.safetensors").exists():
        settings = [f"views.size={SIDE}"]
        mec.pretrain(
            images, out=run, backbone=BACKBONE, time_budget=minutes, set=settings, evaluate=False, resume=run.exists()
        )
    return run


def ap50(start: str, bccd: Path, out: Path, iterations: int, seeds: list[int], lr: float | None) -> list[float]:
    """Of each seed, %."""
    size = {"image_size": SIDE} if start.startswith("random:") else {}
    folder = out / f"{iterations}-iterations"
    results = mec.evaluate(
        start,
        "voc",
        data_root=bccd,
        out=folder,
        iterations=iterations,
        seeds=seeds,
        lr=lr,
        resume=folder.exists(),
        **size,
    )
    return next(list(result.settings["values"]) for result in results if result.metric == "AP50")


def picture(budgets: list[int], rows: dict[str, list[list[float]]], path: Path) -> None:
    """AP50 over iterations: a line a start through the means, a dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for name, values in rows.items():
        (line,) = axis.plot(budgets, [statistics.mean(v) for v in values], label=name)
        for budget, of_seeds in zip(budgets, values):
            axis.plot([budget] * len(of_seeds), of_seeds, "o", color=line.get_color(), markersize=4)
    axis.set(xlabel="iterations of fine-tuning, 4 photographs each", ylabel="AP50 on BCCD's test photographs, %")
    axis.set_xticks(budgets)
    axis.legend(title="start", frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bccd", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--as-coco", type=Path, help="write BCCD here in COCO's layout")
    parser.add_argument("--cifar10", help="a run of CIFAR-10's images with the same backbone and a stem for large ones")
    parser.add_argument("--iterations", default="100,300")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--minutes", type=float, default=10)
    asked = parser.parse_args()
    if asked.as_coco:
        return as_coco(asked.bccd, asked.as_coco)
    budgets, seeds = ([int(word) for word in text.split(",")] for text in (asked.iterations, asked.seeds))
    asked.out.mkdir(parents=True, exist_ok=True)
    own = pretrained(own_images(asked.bccd, asked.out), asked.out / "pretrained", asked.minutes)
    starts = {"random": f"random:{BACKBONE}", "own images": str(own)}
    if asked.cifar10:
        starts["CIFAR-10"] = asked.cifar10
    rows: dict[str, list[list[float]]] = {name: [] for name in starts}
    for budget in budgets:  # the short ones first, of all starts: there is a table early
        for name, start in starts.items():
            folder = asked.out / name.replace(" ", "-")
            rows[name].append(ap50(start, asked.bccd, folder, budget, seeds, asked.lr))
        print(f"\n| AP50, % | {' | '.join(f'{b} iterations' for b in budgets[: len(rows['random'])])} |")
        print("|---" * (1 + len(rows["random"])) + "|")
        for name, values in rows.items():
            cells = (f"{statistics.mean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else 0:.1f}" for v in values)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        (asked.out / "bccd.json").write_text(
            json.dumps({"iterations": budgets, "seeds": seeds, "ap50": rows}, indent=1)
        )
    picture(budgets, rows, asked.out / "bccd.png")


if __name__ == "__main__":
    main()
