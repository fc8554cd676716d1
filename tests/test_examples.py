"""The examples run, and teach what they say they teach."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_encoder_of_measurements_beats_the_measurements_with_one_label_a_class():
    accuracy = example("any_modality").main(quiet=True)
    assert accuracy["encoder, 1 a class"] > accuracy["raw, 1 a class"] + 1  # 87.8 and 84.9 when this was written


@pytest.mark.slow
def test_the_minimal_example_learns_digits_from_python(tmp_path):
    assert example("minimal").main(str(tmp_path / "run"), epochs=5) > 60  # untrained: 48
