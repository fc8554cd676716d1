"""Recordings and arrays as images: what is seen of a sound, what is refused, a folder of them through the commands."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import signal

import mec
from mec.cli.main import main
from mec.data import sounds
from mec.data.decoding import kinds_of, open_image, read_image
from mec.errors import BadInput

soundfile = pytest.importorskip("soundfile")
RATE = sounds.RATE


def recorded(wave: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.rint(32767 * wave).astype(np.int16), rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def seen(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data))


def band_of(hertz: float) -> int:
    """The row whose triangle is centred nearest, by the published scale: 2595 log10(1 + f / 700)."""
    mel = 2595 * np.log10(1 + hertz / 700)
    step = 2595 * np.log10(1 + 8000 / 700) / 65
    return 63 - round(mel / step - 1)


@pytest.mark.parametrize("hertz", [300, 700, 1500, 3000, 6000])
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_tone_is_a_line_in_its_band_at_any_rate(hertz, rate):
    picture = seen(recorded(tone(hertz, rate=rate), rate))
    assert picture.shape == (64, 64)
    assert picture.dtype == np.float32
    rows = picture[:, 2:-2].argmax(0)
    assert (abs(rows - band_of(hertz)) <= 1).all()


def test_spectrogram_is_that_of_scipy_in_mel_bands():
    """White noise, against scipy's spectrogram of the same windows, by filters written down a second time."""
    wave = np.random.default_rng(0).standard_normal(RATE * 64 // 100 + 352) * 0.1  # 64 windows, one a column
    picture = seen(recorded(wave))
    kept = soundfile.read(io.BytesIO(recorded(wave)))[0]
    padded = np.pad(kept, 256)
    f, _, power = signal.spectrogram(padded, RATE, np.hanning(512), noverlap=352, detrend=False, mode="magnitude",
                                     scaling="spectrum")  # fmt: skip
    power = power[:, : len(padded[: len(padded) - 512 : 160]) + 1] ** 2
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66) / 2595) - 1)
    bands = []
    for low, middle, high in zip(points, points[1:], points[2:]):
        rising, falling = (f - low) / (middle - low), (high - f) / (high - middle)
        bands.append(np.clip(np.minimum(rising, falling), 0, None) @ power)
    expected = 10 * np.log10(np.array(bands)[::-1] + 1e-30)
    columns = np.linspace(0, expected.shape[1], 65)
    means = [10 * np.log10((10 ** (expected[:, int(a) : int(np.ceil(b))] / 10)).mean(1))
             for a, b in pairwise(columns)]  # fmt: skip
    difference = picture - np.stack(means, 1)
    heard = np.isfinite(difference) & (picture > picture.min() + 1)
    assert heard.mean() > 0.9
    assert np.ptp(difference[heard]) < 0.01  # the same but for the scale of the window


def test_louder_is_a_constant_and_silence_is_cut():
    soft, loud = (seen(recorded(tone(1000, loud=level))) for level in (0.05, 0.5))
    np.testing.assert_allclose((loud - soft)[soft > soft.max() - 20], 20, atol=0.05)
    assert loud.max() - loud.min() <= sounds.RANGE + 1e-3


def test_what_comes_later_is_further_right_and_what_is_higher_is_further_up():
    low_then_high = np.concatenate([tone(400), tone(4000)])
    rows = seen(recorded(low_then_high)).argmax(0)
    assert (rows[3:29] == rows[10]).all()
    assert (rows[35:61] == rows[50]).all()
    assert rows[10] > rows[50]


def test_kinds_of_files_say_the_same():
    wave = tone(500) + 0.1 * np.random.default_rng(1).standard_normal(RATE)
    same = seen(recorded(wave, kind="FLAC"))
    np.testing.assert_array_equal(seen(recorded(wave)), same)
    np.testing.assert_allclose(seen(recorded(np.stack([wave, wave], 1))), same, atol=1e-4)


@pytest.mark.parametrize("seconds", [2e-4, 0.01, 0.1, 30])
def test_any_length_is_seen_whole(seconds):
    picture = seen(recorded(tone(2000, seconds)))
    assert picture.shape == (64, 64)
    assert np.isfinite(picture).all()


def bad_sounds() -> dict[str, tuple[bytes, str]]:
    good = recorded(tone(500))
    return {
        "cut in the header": (good[:30], "cannot be read|without a sample"),
        "a header alone": (good[:44], "without a sample"),
        "silent": (recorded(np.zeros(1000)), "without a sound"),
        "too long": (recorded(np.full(601 * 1000, 0.1), 1000), "601 s long"),
        "a flac that is none": (b"fLaC" + bytes(100), "cannot be read"),
    }


@pytest.mark.parametrize("name", bad_sounds())
def test_what_is_no_recording_is_refused_in_words(name):
    data, words = bad_sounds()[name]
    with pytest.raises(ValueError, match=words):
        open_image(data)


def test_silence_that_would_unpack_to_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(sounds, "MOST_SAMPLES", 31_999)
    with pytest.raises(ValueError, match="32,000 samples, above the limit of 31,999"):
        open_image(recorded(np.stack([tone(500)] * 2, 1), kind="FLAC"))


def stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).standard_normal((5, 7)), np.arange(35, dtype=np.int16).reshape(5, 7),
        np.arange(35, dtype=np.uint8).reshape(5, 7), np.eye(5, 7, dtype=bool), np.ones((1, 5, 7), np.float16),
        np.arange(105, dtype=np.uint8).reshape(5, 7, 3),
    ],
)  # fmt: skip
def test_arrays_keep_their_values(array):
    image = open_image(stored(array))
    assert (image.height, image.width) == (5, 7)
    np.testing.assert_allclose(np.asarray(image), array.reshape(np.asarray(image).shape), rtol=1e-6)


@pytest.mark.parametrize(
    "array",
    [np.ones(7), np.ones((5, 7, 4), np.uint8), np.ones((5, 7, 3)), np.ones((0, 7)), np.ones((5, 7), complex),
     np.array([["a", "b"]])],
)  # fmt: skip
def test_other_arrays_are_refused_with_what_fits(array):
    with pytest.raises(ValueError, match=r"read are \[h, w\] of numbers"):
        open_image(stored(array))


def test_nothing_is_unpickled():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1, 1)})
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        open_image(file.getvalue() + b"whatever it is")


def test_detection_and_tracking_do_not_take_them():
    with pytest.raises(ValueError, match="more than 8 bits"):
        read_image(recorded(tone(500)))


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sounds, "READ_SOUNDS", False)
    with pytest.raises(ValueError, match=r"pip install 'mec-ssl\[sound\]'"):
        open_image(recorded(tone(500)))


def folder_of_sounds(root: Path) -> Path:
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for kind, low, high in (("low", 200, 500), ("high", 1500, 4000)):
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                wave = tone(draw.uniform(low, high), draw.uniform(0.2, 0.6)) + 0.05 * draw.standard_normal(1)
                soundfile.write(root / part / kind / f"{i}.{'flac' if i % 4 == 0 else 'wav'}", wave, RATE)
    return root


def test_a_folder_of_recordings_goes_through_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data, run = str(folder_of_sounds(tmp_path / "tones")), str(tmp_path / "run")
    main(["pretrain", data, "--steps", "12", "--out", run, "--device", "cpu"])
    told = " ".join(capsys.readouterr().out.split())
    assert "log-mel spectrograms" in told
    results = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    few = [r["value"] for r in results if r["protocol"] == "fewshot" and r["encoder"] == "mec-joint"]
    assert few
    assert max(few) > 80
    view = json.loads((tmp_path / "run/settings.json").read_text())["recipe"]["views"][0]
    assert (view["flip"], view["hue"], view["grey"], view["erase"]) == (0, 0, 0, 0.5)
    main(["embed", run, data, "--out", "features.npz"])
    assert np.load("features.npz")["features"].shape[0] == 64
    main(["evaluate", run, "knn", data])
    assert "top-1" in capsys.readouterr().out
    main(["select", run, data, "--n", "4", "--out", "picked.csv"])
    assert len((tmp_path / "picked.csv").read_text().splitlines()) == 5


def test_a_folder_of_arrays_is_trained_on(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", draw.standard_normal((20, 24)) * 1000)
    run = mec.pretrain(tmp_path, steps=2, out=tmp_path / "run", device="cpu", evaluate=False, report=False, quiet=True)
    stored = json.loads((run / "settings.json").read_text())
    assert any("arrays seen as grey images" in why for why in stored["why"])
    assert stored["recipe"]["views"][0]["flip"] == 0


def test_of_a_mixture_the_most_are_taken_and_the_rest_told(tmp_path):
    folder = folder_of_sounds(tmp_path / "tones") / "train"
    for i in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"cover-{i}.png")
    found = mec.open_data(str(folder))
    assert len(found.train) == 48
    assert found.left_out == {"images among recordings": 3}
    assert "3 images among recordings" in found.words()[0]
    assert found.suits == "recordings"


def test_masks_beside_images_stay_beside(tmp_path):
    for i in range(4):
        Image.new("L", (9, 9), i).save(tmp_path / f"{i}.png")
        np.save(tmp_path / f"{i}.npy", np.ones((9, 9)))
    found = mec.open_data(str(tmp_path))
    assert (len(found.train), found.suits, dict(found.left_out)) == (4, "images", {"arrays among images": 4})


def test_a_list_and_parts_of_several_kinds_are_refused(tmp_path):
    folder = folder_of_sounds(tmp_path / "tones")
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "list.txt").write_text("tones/train/low/1.wav\none.png\n")
    with pytest.raises(BadInput, match="1 recording and 1 image: an encoder learns from one kind"):
        mec.open_data(str(tmp_path / "list.txt"))
    for part in ("low", "high"):
        for file in (folder / "test" / part).iterdir():
            file.unlink()
        Image.new("RGB", (8, 8)).save(folder / "test" / part / "0.png")
    with pytest.raises(BadInput, match="48 recordings and 2 images"):
        mec.open_data(str(folder))


def test_kinds_are_told_by_suffix():
    assert kinds_of(["a.b/c", "x.JPG", "y.npy", "noext", ".hidden"]) == {"images": 1, "arrays": 1}
