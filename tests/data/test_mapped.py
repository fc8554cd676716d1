"""Indexes of very many images: left on disk, and the same images, names, labels and fingerprint as in memory."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import mec
from mec.data import batches, images, mapped, opening, shards
from mec.data.batches import ViewBatches
from mec.data.listing import pack_names
from mec.data.mapped import Names, Shuffled, chunks
from mec.errors import BadInput
from mec.recipes.recipe import View


@pytest.fixture
def large(monkeypatch):
    """Sets of ten images and more are taken for very large ones, and looked at seven rows at a time."""
    for module in (mapped, shards, batches, images, opening):
        monkeypatch.setattr(module, "LARGE", 10)
    monkeypatch.setattr(mapped, "CHUNK", 7)
    monkeypatch.setattr(shards, "ROWS", 7)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 9), ("test", 12)):
        for kind in ("a", "b"):
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (70, 80 + i, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"é{i}.png")
    out = root.parent / f"{root.name}-packed"
    mec.pack(root, out, shard_size=1)
    return out


def told(data: mec.Data) -> dict:
    parts = {"train": data.train, "test": data.test, "validation": data.validation}
    about = {name: [part.images.name(i) for i in range(len(part))] for name, part in parts.items()}
    labels = {name: part.labels.tolist() for name, part in parts.items()}
    pixels = [np.asarray(data.train.images.read(i)).sum() for i in range(len(data.train))]
    return {"names": about, "labels": labels, "pixels": pixels, "print": data.fingerprint, "suits": data.suits}


def test_a_large_index_has_the_same_images_as_in_memory(packed, large, monkeypatch):
    found = told(mec.open_data(str(packed)))
    table = mec.open_data(str(packed)).train.images.table
    assert isinstance(table.names, Names)
    assert isinstance(table.offset, np.memmap)
    monkeypatch.undo()
    expected = mec.open_data(str(packed))
    assert isinstance(expected.train.images.table.names, tuple)
    assert told(expected) == found


def test_damage_is_told(packed, large, tmp_path):
    table = packed / "index.npz"
    kept = table.read_bytes()
    arrays = dict(np.load(table))
    try:
        for name, value in (("offset", 10**9), ("shard", -1), ("label", 7), ("shard", 99)):
            np.savez(table, **arrays | {name: np.full_like(arrays[name], value)})
            with pytest.raises(BadInput, match="cannot be read"):
                mec.open_data(str(packed))
        np.savez_compressed(table, **arrays)
        with pytest.raises(BadInput, match="is no column of numbers as it is"):
            mec.open_data(str(packed))
        np.savez(table, **{name: column for name, column in arrays.items() if name != "label"})
        with zipfile.ZipFile(table, "a") as archive, archive.open("label.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": (82,)})
        with pytest.raises(BadInput, match="is no column of numbers as it is"):
            mec.open_data(str(packed))
        table.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(BadInput, match="cannot be read"):
            mec.open_data(str(packed))
        np.savez(table, **arrays | {"names": pack_names(["one"] * 81)})
        with pytest.raises(ValueError, match="names of 81 images, not of 82"):
            mec.open_data(str(packed)).train.images.name(0)
    finally:
        table.write_bytes(kept)


def test_columns_on_disk_are_those_that_numpy_loads(tmp_path):
    draw = np.random.default_rng(0)
    columns = {"a": draw.integers(0, 99, 1000, np.int32), "longer name": draw.standard_normal(50)}
    np.savez(tmp_path / "x.npz", **columns)
    found = mapped.mapped(tmp_path / "x.npz")
    assert found.keys() == columns.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column)
        assert isinstance(found[name], np.memmap)
    (tmp_path / "y.npz").write_bytes(b"no zip")
    with pytest.raises(zipfile.BadZipFile):
        mapped.mapped(tmp_path / "y.npz")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 5000])
def test_names_are_those_that_were_packed(n, chunk, monkeypatch):
    if n * 9 / chunk > 10_000:
        pytest.skip("a chunk a byte")
    monkeypatch.setattr(mapped, "CHUNK", chunk)
    names = [f"{'é' * (i % 5)}{i}.jpg" for i in range(n)]
    found = Names(pack_names(names), n)
    assert len(found) == n
    places = {0, n - 1, -1, n // 2, min(n - 1, 1023), min(n - 1, 1024)}
    assert {i: found[i] for i in places} == {i: names[i] for i in places}
    assert [*found] == names
    with pytest.raises(IndexError):
        found[n]


def test_chunks_cover_columns_once():
    a, b = np.arange(20), np.arange(20) * 2
    got = [*chunks(a, b)]
    assert np.concatenate([x for x, _ in got]).tolist() == a.tolist()
    assert np.concatenate([y for _, y in got]).tolist() == b.tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 1000, 4096, 4097, 100_003])
def test_a_computed_order_has_each_number_once(n):
    found = Shuffled(n, 3, 1)[:]
    assert np.array_equal(np.sort(found), np.arange(n))
    half = n // 2
    assert np.array_equal(np.concatenate([Shuffled(n, 3, 1)[:half], Shuffled(n, 3, 1)[half:n]]), found)


def test_a_computed_order_is_as_random_as_a_drawn_one():
    n = 100_003
    orders = np.stack([Shuffled(n, seed, epoch)[:] for seed in range(3) for epoch in range(3)])
    assert len({x.tobytes() for x in orders}) == 9
    for order in orders:
        assert stats.kstest(order[:5000] / n, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.02
        assert (order[1:] - order[:-1] == 1).sum() < 10
    assert abs(np.corrcoef(orders)[np.triu_indices(9, 1)]).max() < 0.02


def test_epochs_of_a_large_set_go_through_all_of_it(large):
    class Many:
        pixels = None

        def __len__(self) -> int:
            return 1003

    split = mec.open_data("digits").train
    object.__setattr__(split, "images", Many())
    made = ViewBatches(split, (View(size=8),), 10, seed=4, device="cpu", workers=0)
    seen = np.concatenate([made.indices(step)[1] for step in range(made.steps_per_epoch)])
    assert len({*seen.tolist()}) == 1000
    assert made.indices(100)[0] == 1
    assert not np.array_equal(made.indices(0)[1], made.indices(100)[1])
    assert np.array_equal(
        made.indices(57)[1], ViewBatches(split, (View(size=8),), 10, seed=4, device="cpu", workers=0).indices(57)[1]
    )


def test_a_run_on_a_large_set_is_a_function_of_its_seed(packed, large, tmp_path):
    about = {"quiet": True, "evaluate": False, "report": False, "device": "cpu", "workers": 0, "batch_size": 8,
             "backbone": "resnet10-fast", "set": ["views.size=16"], "epochs": 1}  # fmt: skip
    runs = [mec.pretrain(str(packed), out=tmp_path / name, seed=seed, **about) for name, seed in zip("abc", (0, 0, 1))]
    first, same, other = ((run / "encoder.safetensors").read_bytes() for run in runs)
    assert first == same != other


def test_tars_without_an_index_keep_the_order_of_their_parts(tmp_path):
    for part in ("val", "train", "test"):
        with tarfile.open(tmp_path / f"{part}-0.tar", "w") as tar:
            for i in range(3):
                file = io.BytesIO()
                Image.new("RGB", (70, 70), (i, 0, 0)).save(file, "PNG")
                info = tarfile.TarInfo(f"{part}{i}.png")
                info.size = len(file.getvalue())
                tar.addfile(info, io.BytesIO(file.getvalue()))
    found = shards.open_packed(str(tmp_path / "{val,train,test}-0.tar"))
    assert found.parts == ("val", "train", "test")
    assert [found.rows_of(part).tolist() for part in ("train", "val", "test", "none")] == [
        [3, 4, 5], [0, 1, 2], [6, 7, 8], []
    ]  # fmt: skip
