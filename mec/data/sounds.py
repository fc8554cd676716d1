"""Recordings and arrays as pictures: what an encoder of images sees of a sound is its log-mel spectrogram."""

import importlib.util
import io
from typing import Any

import numpy as np
from PIL import Image

SOUNDS, ARRAYS = frozenset({".wav", ".flac"}), frozenset({".npy"})
SOUND_EXTRA = "pip install 'mec-ssl[sound]'"
READ_SOUNDS = importlib.util.find_spec("soundfile") is not None
RATE, WINDOW, HOP = 16_000, 512, 160  # Hz, samples: windows of 32 ms, each 10 ms after the last
BANDS = 64  # of the mel scale, from 0 to 8 kHz; and columns, the recording in as many equal stretches
RANGE = 80.0  # dB below the loudest cell of a recording; what is quieter is as quiet
MOST_SECONDS, MOST_SAMPLES = 600, 100_000_000  # of all channels: some megabytes of silence unpack to gigabytes
CHUNK = 4_096  # windows that are turned at once


def is_sound(data: bytes) -> bool:
    return data[:4] == b"fLaC" or (data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE")


def spectrogram(data: bytes) -> Image.Image:
    """The bytes of a .wav or .flac file -> decibels as a float image of 64 x 64: mel bands, the lowest at the bottom,
    over the whole recording. Channels are averaged and the rate is made 16 kHz.
    Raises ValueError: not a recording, empty, of no sound at all, or too long to be one example."""
    if not READ_SOUNDS:
        raise ValueError(f"recordings are read with soundfile: {SOUND_EXTRA}")
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if seconds > MOST_SECONDS:
                raise ValueError(f"{seconds:,.0f} s long: a recording is one example; cut it into pieces of seconds")
            if file.frames * file.channels > MOST_SAMPLES:
                raise ValueError(f"{file.frames * file.channels:,} samples, above the limit of {MOST_SAMPLES:,}")
            wave = file.read(dtype="float32", always_2d=True).mean(1)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot be read as a recording: {error.error_string}") from error
    if not len(wave) or not np.isfinite(wave).all() or not wave.any():
        raise ValueError("a recording without a sound" if len(wave) else "a recording without a sample")
    common = np.gcd(rate, RATE)
    wave = resample_poly(wave, RATE // common, rate // common) if rate != RATE else wave
    wave = np.pad(wave, (WINDOW // 2, max(WINDOW // 2, WINDOW - len(wave))))
    windows = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    hann, filters = np.hanning(WINDOW), mel_filters()
    parts = (windows[start : start + CHUNK] * hann for start in range(0, len(windows), CHUNK))
    power = np.concatenate([np.abs(np.fft.rfft(part)) ** 2 @ filters for part in parts])  # [t, bands]
    edges = np.linspace(0, len(power), BANDS + 1)
    first, last = edges[:-1].astype(int), np.ceil(edges[1:]).astype(int)
    cells = np.stack([power[a:b].mean(0) for a, b in zip(first, last)], 1)[::-1]
    decibels = 10 * np.log10(np.maximum(cells, cells.max() * 10 ** (-RANGE / 10)))
    return Image.fromarray(np.ascontiguousarray(decibels, np.float32))


def mel_filters() -> np.ndarray:
    """[257, 64] triangles, evenly spaced on the mel scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    low, middle, high = points[:-2], points[1:-1], points[2:]
    f = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    return np.minimum((f - low) / (middle - low), (high - f) / (high - middle)).clip(0)


def array_image(data: bytes) -> Image.Image:
    """The bytes of a .npy file -> an image: [h, w] of any numbers, or [h, w, 3] of whole ones to 255.
    Raises ValueError: another shape, or no numbers; nothing is unpickled."""
    array: Any = np.load(io.BytesIO(data), allow_pickle=False)
    squeezed = array.reshape([n for n in array.shape if n != 1]) if array.ndim > 2 else array
    coloured = squeezed.ndim == 3 and squeezed.shape[2] == 3 and squeezed.dtype == np.uint8
    if squeezed.size == 0 or squeezed.dtype.kind not in "biuf" or not (coloured or squeezed.ndim == 2):
        raise ValueError(
            f"an array {list(array.shape)} of {array.dtype}: read are [h, w] of numbers and [h, w, 3] of uint8"
        )
    return Image.fromarray(squeezed if squeezed.dtype == np.uint8 else squeezed.astype(np.float32))
