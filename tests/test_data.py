import gzip
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import idx

from jaxnet import data

KEY = jax.random.key(0)


def test_xor():
    x, y = data.xor()
    assert x.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert y.ravel().tolist() == [a != b for a, b in x.tolist()]


@pytest.mark.parametrize("make", [data.linearly_separable, data.moons, data.circles, data.spirals])
def test_random_sets(make, dtype):
    with jax.debug_key_reuse(True):
        x, y = make(jax.random.key(1), 101)
    assert x.shape == (101, 2)
    assert y.shape == (101, 1)
    assert x.dtype == y.dtype == dtype
    assert int(y.sum()) == 51
    assert set(y.ravel().tolist()) == {0, 1}
    again, other = make(jax.random.key(1), 101).x, make(jax.random.key(2), 101).x
    assert (x == again).all()
    assert not jnp.allclose(x, other)


def test_linearly_separable_keeps_its_margin(x64):
    for seed in range(5):
        x, y = data.linearly_separable(jax.random.key(seed), 500, margin=0.2)
        assert float(jnp.abs(x).max()) <= 1
        # The line goes through 0: along its normal, the two classes lie at least 0.2 from it.
        angles = np.linspace(0, 2 * np.pi, 2000)
        along = np.where(y == 1, 1.0, -1.0) * (np.asarray(x) @ np.stack([np.cos(angles), np.sin(angles)]))
        assert along.min(axis=0).max() > 0.199


def test_shapes_of_the_curves(x64):
    x, y = data.circles(KEY, 300, noise=0, factor=0.3)
    radius = jnp.linalg.norm(x, axis=1)
    assert jnp.allclose(radius, jnp.where(y.ravel() == 0, 1.0, 0.3))
    x, y = data.moons(KEY, 300, noise=0)
    upper, lower = x[y.ravel() == 0], x[y.ravel() == 1]
    assert jnp.allclose(jnp.linalg.norm(upper, axis=1), 1)
    assert upper[:, 1].min() >= 0
    assert jnp.allclose(jnp.linalg.norm(lower - jnp.array([[1.0, 0.5]]), axis=1), 1)
    assert lower[:, 1].max() <= 0.5
    x, y = data.spirals(KEY, 300, noise=0)
    assert float(jnp.linalg.norm(x, axis=1).max()) <= 1
    assert float(jnp.std(data.moons(KEY, 5000, noise=2.0).x - data.moons(KEY, 5000, noise=0).x)) == pytest.approx(
        2, rel=0.05
    )


def test_digits(dtype):
    x, y = data.digits()
    assert x.shape == (1797, 64)
    assert y.shape == (1797, 10)
    assert x.dtype == y.dtype == dtype
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert y.sum(axis=0).astype(int).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        data.digits()


# Preparing


def test_one_hot():
    assert data.one_hot(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(ValueError, match=r"labels run from 0 to 3, expected 0 to 2"):
        data.one_hot([0, 3], 3)
    with pytest.raises(ValueError, match="labels run from -1 to 0"):
        data.one_hot([0, -1], 3)
    with pytest.raises(TypeError, match=r"labels is an array of float64 .*expected integers"):
        data.one_hot([0.0], 3)
    with pytest.raises(ValueError, match=r"labels has shape \(1, 1\), expected \(n,\)"):
        data.one_hot([[0]], 3)


def test_standardize(x64):
    x = jax.random.normal(KEY, (50, 3)) * jnp.array([[1.0, 5.0, 0.0]]) + jnp.array([[0.0, 9.0, 0.1]])
    z = data.standardize(x)
    assert jnp.allclose(z.mean(axis=0), 0, atol=1e-12)
    assert jnp.allclose(z.std(axis=0), jnp.array([1.0, 1.0, 0.0]))
    assert jnp.allclose(data.standardize(x[:10], like=x), z[:10])
    with pytest.raises(ValueError, match="x has a value that is not finite: nan in example 2, feature 1"):
        data.standardize(x.at[2, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="like has a value that is not finite: inf"):
        data.standardize(x, like=x.at[2, 1].set(jnp.inf))
    with pytest.raises(ValueError, match="x has 3 features, but like has 2"):
        data.standardize(x, like=x[:, :2])
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(n, features\)"):
        data.standardize(x[0])
    with pytest.raises(TypeError, match=r"x is an array of int.*expected floats"):
        data.standardize(jnp.ones((2, 2), int))


def test_standardize_stays_within_the_range_of_the_dtype():
    for size in (1e-30, 1.0, 1e30):
        assert jnp.allclose(data.standardize([[0.0], [size]]), jnp.array([[-1.0], [1.0]]), rtol=1e-5)
    assert data.standardize(jnp.array([[300.0], [-300.0]], jnp.float16)).ravel().tolist() == [1, -1]


def test_split():
    x = jnp.arange(10.0)[:, None]
    first, second = data.split(KEY, data.Data(x, 2 * x), 0.7)
    assert (len(first.x), len(second.x)) == (7, 3)
    assert sorted(jnp.concatenate([first.x, second.x]).ravel().tolist()) == x.ravel().tolist()
    assert (first.y == 2 * first.x).all()
    assert not (data.split(jax.random.key(1), data.Data(x, x), 0.7)[0].x == first.x).all()
    for fraction in (0.0, 1.0, -1, 7, float("nan"), "a"):
        with pytest.raises(ValueError, match=f"fraction is {fraction!r}, expected a number between 0 and 1"):
            data.split(KEY, data.Data(x, x), fraction)
    with pytest.raises(ValueError, match="fraction is 0.01, which leaves 0 and 10 of 10 examples"):
        data.split(KEY, data.Data(x, x), 0.01)
    with pytest.raises(TypeError, match=r"data is a tuple, expected Data\(x, y\)"):
        data.split(KEY, (x, x, x), 0.5)
    with pytest.raises(ValueError, match="data has 10 inputs, but 4 targets"):
        data.split(KEY, data.Data(x, x[:4]), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.moons(0), TypeError, "key is a int, expected a typed key"),
        (lambda: data.moons(KEY, 0), ValueError, "n is 0, expected an integer >= 1"),
        (lambda: data.moons(KEY, 2.5), TypeError, "n is 2.5, expected an integer"),
        (lambda: data.moons(KEY, noise=-1), ValueError, "noise is -1, expected a number >= 0"),
        (lambda: data.circles(KEY, factor=1), ValueError, "factor is 1, expected a number between 0 and 1"),
        (lambda: data.spirals(KEY, turns=0), ValueError, "turns is 0, expected a number > 0"),
        (
            lambda: data.linearly_separable(KEY, margin=0.9),
            ValueError,
            "margin is 0.9, expected a number from 0 to 0.5",
        ),
        (lambda: data.linearly_separable(KEY, -1), ValueError, "n is -1"),
    ],
)
def test_bad_options(call, error, message):
    with pytest.raises(error, match=message):
        call()


# MNIST


FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@pytest.fixture
def folder(tmp_path):
    """Four small files: 3 training images and 2 test images of 2x2 pixels, one of the files gzipped."""
    pixels = np.arange(12).reshape(3, 2, 2)
    contents = [idx(pixels), idx(np.array([5, 0, 9])), idx(pixels[:2] * 10), idx(np.array([1, 2]))]
    for file, content in zip(FILES, contents, strict=True):
        (tmp_path / file).write_bytes(content)
    (tmp_path / FILES[0]).rename(tmp_path / "raw")
    (tmp_path / f"{FILES[0]}.gz").write_bytes(gzip.compress((tmp_path / "raw").read_bytes()))
    return tmp_path


def test_mnist_from_a_path(folder, dtype):
    train, test = data.mnist(folder)
    assert train.x.dtype == train.y.dtype == dtype
    assert jnp.allclose(train.x * 255, jnp.arange(12, dtype=dtype).reshape(3, 4))
    assert jnp.argmax(train.y, axis=1).tolist() == [5, 0, 9]
    assert test.x.shape == (2, 4)
    assert jnp.argmax(test.y, axis=1).tolist() == [1, 2]


def test_mnist_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("JAXNET_DATA", str(folder))
    assert data.mnist().train.x.shape == (3, 4)
    (folder / "mnist").mkdir()
    for file in folder.glob("*ubyte*"):
        file.rename(folder / "mnist" / file.name)
    assert data.mnist().train.x.shape == (3, 4)
    assert data.mnist(str(folder / "mnist")).test.x.shape == (2, 4)
    assert data.mnist(folder).test.x.shape == (2, 4)


def test_the_real_mnist(mnist_folder):
    train, test = data.mnist()
    assert train.x.shape == (60_000, 784)
    assert test.x.shape == (10_000, 784)
    assert jnp.argmax(train.y[:5], axis=1).tolist() == [5, 0, 4, 1, 9]
    assert float(train.x.mean()) == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize(
    ("file", "damage", "error", "message"),
    [
        (FILES[1], None, FileNotFoundError, "neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz is there"),
        (f"{FILES[0]}.gz", lambda raw: raw[:-9], ValueError, "cannot be read .*damaged or cut short, get it again"),
        (f"{FILES[0]}.gz", lambda raw: raw[:30] + b"\0\0" + raw[32:], ValueError, "cannot be read"),
        (FILES[2], lambda raw: raw[:-1], ValueError, r"holds 23 bytes, expected 24 for the shape \(2, 2, 2\)"),
        (FILES[2], lambda raw: raw + b"\0", ValueError, "holds 25 bytes, expected 24"),
        (FILES[2], lambda raw: raw[:6], ValueError, "holds 6 bytes"),
        (FILES[2], lambda raw: b"", ValueError, "begins with nothing, expected 00000803"),
        (FILES[2], lambda raw: b"<html>no such page</html>", ValueError, "begins with 3c68746d, expected 00000803"),
        (FILES[2], lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], ValueError, "expected .* for the shape"),
        (FILES[3], lambda raw: idx(np.array([1, 2, 3])), ValueError, "holds 2 images, but .* 3 labels"),
        (FILES[3], lambda raw: idx(np.array([1, 10])), ValueError, "holds the label 10, expected 0 to 9"),
        (FILES[2], lambda raw: idx(np.ones((2, 3, 3))), ValueError, "training and test images differ in size"),
        (FILES[2], lambda raw: idx(np.ones((2, 0, 3))), ValueError, "holds no images"),
        (FILES[3], lambda raw: idx(np.ones((2, 2, 2))), ValueError, "begins with 00000803, expected 00000801"),
    ],
)
def test_mnist_files_that_are_wrong(folder, file, damage, error, message):
    path = folder / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(error, match=message) as caught:
        data.mnist(folder)
    assert str(folder) in str(caught.value)


def test_mnist_folder_that_is_missing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="path is .*nowhere, not a folder"):
        data.mnist(tmp_path / "nowhere")
    monkeypatch.setenv("JAXNET_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="JAXNET_DATA is .*nothing, not a folder"):
        data.mnist()


def downloads(monkeypatch, tmp_path, retrieve):
    """Put a stand-in for pooch in place, and no JAXNET_DATA."""
    monkeypatch.delenv("JAXNET_DATA", raising=False)
    pooch = types.SimpleNamespace(os_cache=lambda name: tmp_path / name, retrieve=retrieve)
    monkeypatch.setitem(sys.modules, "pooch", pooch)


def test_mnist_download_with_checksums(folder, tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        assert url.endswith(fname)
        assert known_hash.startswith("sha256:")
        path.mkdir(parents=True, exist_ok=True)
        source = next(p for p in (folder / fname, folder / fname.removesuffix(".gz")) if p.exists())
        (Path(path) / source.name).write_bytes(source.read_bytes())

    downloads(monkeypatch, tmp_path, retrieve)
    assert data.mnist().train.x.shape == (3, 4)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (ValueError("hash"), ValueError, "does not have the checksum of MNIST; try again"),
        (OSError("no route"), ConnectionError, r"the download failed \(OSError\); without a network, .*JAXNET_DATA"),
    ],
)
def test_mnist_download_that_fails(failure, error, message, tmp_path, monkeypatch):
    def retrieve(*args, **kwargs):
        raise failure

    downloads(monkeypatch, tmp_path, retrieve)
    with pytest.raises(error, match=message):
        data.mnist()


def test_mnist_without_pooch(monkeypatch):
    monkeypatch.delenv("JAXNET_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="needs pooch: pip install pooch; or pass the folder"):
        data.mnist()


def test_published_checksums_are_those_of_the_real_files(mnist_folder):
    pooch = pytest.importorskip("pooch")
    folder = next(p for p in (Path(mnist_folder) / "mnist", Path(mnist_folder)) if p.is_dir())
    matching = [
        file
        for file, sha256 in data._MNIST_SHA256.items()
        if (folder / file).exists() and pooch.file_hash(folder / file) == sha256
    ]
    assert len(matching) >= 3  # the fourth may have been packed again: its pixels are checked above


def test_standardizing_large_numbers():
    large = np.array([[3e38], [3e38], [1e38]], np.float32)
    expected = (large.astype(float) - large.mean(dtype=float)) / large.std(dtype=float)
    np.testing.assert_allclose(data.standardize(large), expected, rtol=1e-6)
    np.testing.assert_allclose(data.standardize([[3e38], [-3e38]]), [[1], [-1]])
