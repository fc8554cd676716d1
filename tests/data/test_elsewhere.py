"""Data in a store of objects: a real S3 server on this machine, which fails one request in twenty."""

import itertools
import threading

import boto3
import numpy as np
import pytest
import s3fs
from helpers import command, identical, started, wait_for, weights, write_images
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from mec.data.opening import open_data
from mec.data.pack import pack
from mec.errors import BadInput

EACH = 20


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The client of an empty bucket `photos`; the environment has the server's address and keys."""
    serve, counted = DomainDispatcherApplication(create_backend_app), itertools.count(1)

    def faulty(environ, start_response):
        if next(counted) % EACH == 0:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return serve(environ, start_response)

    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # that of another test has another port
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    server.shutdown()


@pytest.fixture
def packed(store, tmp_path):
    """Folder of shards here, which lie in the bucket, too; each photograph has a class."""
    for name, seed in (("a", 0), ("b", 1)):
        write_images(tmp_path / "own" / "train" / name, 40, ".png", seed=seed, width=40, height=40)
        write_images(tmp_path / "own" / "test" / name, 10, ".png", seed=seed + 2, width=40, height=40)
    pack(tmp_path / "own", tmp_path / "packed", shard_size=0.1)
    for path in (tmp_path / "packed").iterdir():
        store.upload_file(str(path), "photos", f"packed/{path.name}")
    return tmp_path / "packed"


def test_shards_of_a_bucket_are_those_of_a_folder_though_one_request_in_twenty_fails(packed):
    here, there = open_data(str(packed)), open_data("s3://photos/packed")
    assert there.fingerprint == here.fingerprint
    assert there.name == "packed"
    assert np.array_equal(there.train.images.pixels, here.train.images.pixels)
    one = open_data("s3://photos/packed/train-{000000..000001}.tar")
    assert 0 < len(one.train) < len(here.train)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://photos/nothing", "cannot be fetched"),
        ("s3://nothing/packed", "cannot be fetched"),
        ("nothing://photos/packed", "Protocol not known"),
        ("adl://photos/packed.tar", "cannot be fetched"),
    ],
)
def test_a_place_that_is_none_is_a_sentence(packed, url, words):
    with pytest.raises(BadInput, match=words) as told:
        open_data(url)
    assert url in str(told.value)


def test_a_shard_that_changed_in_the_bucket_is_refused(packed, store):
    name = next(packed.glob("train*.tar")).name
    store.put_object(Bucket="photos", Key=f"packed/{name}", Body=(packed / name).read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        open_data("s3://photos/packed")


@pytest.mark.slow
def test_training_from_a_bucket_killed_three_times_is_training_from_a_folder_left_alone(packed, tmp_path):
    words = ["-m", "mec", "pretrain", "--epochs", "30", "--batch-size", "16", "--set", "views.size=8", "precision=fp32"]
    words += ["network.projector=[32,16]", "--save-minutes", "0.001", "--no-evaluate", "--resume"]
    done = command(*words[:3], str(packed), *words[3:], "--out", tmp_path / "left")
    assert done.returncode == 0, done.stderr
    cache, metrics = tmp_path / "cache", tmp_path / "killed" / "metrics.jsonl"

    def steps() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    for condition in (lambda: [*cache.rglob("*.tar")], lambda: steps() >= 3, lambda: steps() >= 8):
        process = started(*words[:3], "s3://photos/packed", *words[3:], "--out", tmp_path / "killed")
        wait_for(condition, process)
        process.kill()
        process.communicate()
    done = command(*words[:3], "s3://photos/packed", *words[3:], "--out", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert "resumed after step" in done.stdout + done.stderr
    assert identical(weights(tmp_path / "killed"), weights(tmp_path / "left"))
