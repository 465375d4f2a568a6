"""Data sets, and what is done to them before training.

A data set is ``Data(x, y)``: inputs (n, inputs) and targets (n, outputs), float arrays, which is what `jaxnet.train`
takes. Random ones are drawn from an explicit key.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxnet._validate import check_key, checked_count, describe

__all__ = [
    "Data",
    "Splits",
    "circles",
    "digits",
    "linearly_separable",
    "mnist",
    "moons",
    "one_hot",
    "spirals",
    "split",
    "standardize",
    "xor",
]


class Data(NamedTuple):
    """Inputs ``x`` (n, inputs) and targets ``y`` (n, outputs)."""

    x: Array
    y: Array


class Splits(NamedTuple):
    """A data set in two parts: one to train on, one to test with."""

    train: Data
    test: Data


# ----------------------------------------------------------------------------------------------------------------------
# Small sets, made here: y (n, 1) is 0 or 1


def xor() -> Data:
    """The four points of the plane's unit square, y = 1 where exactly one coordinate is 1.

    >>> xor().y.ravel()
    Array([0., 1., 1., 0.], dtype=float32)
    """
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return Data(x, jnp.array([[0.0], [1.0], [1.0], [0.0]]))


def linearly_separable(key: Array, n: int = 200, *, margin: float = 0.1) -> Data:
    """Points in [−1, 1]² on both sides of a random line through it, none nearer to the line than ``margin``.

    ``margin`` lies in [0, 0.5]. The two sides hold n // 2 and n − n // 2 points.

    >>> linearly_separable(jax.random.key(0), 10).x.shape
    (10, 2)
    """
    check_key(key)
    n = checked_count("n", n, least=1)
    if not 0 <= margin <= 0.5:
        raise ValueError(f"margin is {margin}, expected a number from 0 to 0.5")
    angle_key, across_key, along_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, maxval=2 * math.pi)
    across = jax.random.uniform(across_key, (n,), minval=margin, maxval=1.0)
    y = _two_classes(n)
    # The disc of radius 1 in coordinates across and along the line, so that every angle fits the square.
    along = jax.random.uniform(along_key, (n,), minval=-1.0) * jnp.sqrt(1 - across**2)
    across = jnp.where(y == 1, across, -across)
    c, s = jnp.cos(angle), jnp.sin(angle)
    return Data(jnp.column_stack([c * across - s * along, s * across + c * along]), y[:, None])


def moons(key: Array, n: int = 200, *, noise: float = 0.1) -> Data:
    """Two interleaved half circles of radius 1, with Gaussian noise of standard deviation ``noise``.

    >>> moons(jax.random.key(0), 10).x.shape
    (10, 2)
    """

    def curve(t: Array, y: Array) -> tuple[Array, Array]:
        angle = math.pi * t
        return (
            jnp.where(y == 0, jnp.cos(angle), 1 - jnp.cos(angle)),
            jnp.where(y == 0, jnp.sin(angle), 0.5 - jnp.sin(angle)),
        )

    return _on_curve(key, n, noise, curve)


def circles(key: Array, n: int = 200, *, noise: float = 0.1, factor: float = 0.5) -> Data:
    """A circle of radius 1 (y = 0) around one of radius ``factor`` (y = 1), with Gaussian noise.

    >>> circles(jax.random.key(0), 10).x.shape
    (10, 2)
    """
    if not 0 < factor < 1:
        raise ValueError(f"factor is {factor}, expected a number between 0 and 1")

    def curve(t: Array, y: Array) -> tuple[Array, Array]:
        radius, angle = jnp.where(y == 0, 1.0, factor), 2 * math.pi * t
        return radius * jnp.cos(angle), radius * jnp.sin(angle)

    return _on_curve(key, n, noise, curve)


def spirals(key: Array, n: int = 200, *, noise: float = 0.02, turns: float = 1.5) -> Data:
    """Two interleaved spirals of ``turns`` turns that reach radius 1, with Gaussian noise.

    >>> spirals(jax.random.key(0), 10).x.shape
    (10, 2)
    """
    if not 0 < turns < math.inf:
        raise ValueError(f"turns is {turns}, expected a number > 0")

    def curve(t: Array, y: Array) -> tuple[Array, Array]:
        radius = jnp.sqrt(t)  # as many points on each piece of equal area
        angle = 2 * math.pi * turns * radius + math.pi * y
        return radius * jnp.cos(angle), radius * jnp.sin(angle)

    return _on_curve(key, n, noise, curve)


def _two_classes(n: int) -> Array:
    return (jnp.arange(n) >= n // 2).astype(float)


def _on_curve(key: Array, n: int, noise: float, curve: Any) -> Data:
    """Draw n points with noise on two curves, t drawn uniformly from [0, 1]."""
    check_key(key)
    n = checked_count("n", n, least=1)
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}, expected a number >= 0")
    t_key, noise_key = jax.random.split(key)
    y = _two_classes(n)
    points = jnp.column_stack(curve(jax.random.uniform(t_key, (n,)), y))
    return Data(points + noise * jax.random.normal(noise_key, (n, 2)), y[:, None])


# ----------------------------------------------------------------------------------------------------------------------
# Real data


def digits() -> Data:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships: x (1797, 64) in [0, 1], y one-hot.

    From the UCI Optical Recognition of Handwritten Digits set (Alpaydin & Kaynak 1998). Needs scikit-learn, no network.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    return Data(jnp.asarray(bunch.data / 16), one_hot(bunch.target, 10))


_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def mnist(path: str | os.PathLike[str] | None = None) -> Splits:
    """The MNIST digits (LeCun, Cortes & Burges 1998): 60,000 to train on and 10,000 to test with.

    x (n, 784) holds the pixels divided by 255, row by row; y (n, 10) is one-hot.

    Parameters
    ----------
    path
        A folder with the four IDX files, gzipped or not, or with a subfolder ``mnist`` that holds them. If None: the
        folder that the environment variable ``JAXNET_DATA`` names; if that is not set, the user's cache, filled by a
        download with checksums on first use (needs ``pooch``). Other sets in the same files, such as Fashion-MNIST,
        load from a path too.

    Raises
    ------
    FileNotFoundError
        If a file is missing where it was to be.
    ValueError
        If a file is damaged, cut short, or not what its name says.
    ConnectionError
        If the download fails.
    """
    folder = _mnist_folder(path)
    splits = Splits(_mnist_part(folder, "train"), _mnist_part(folder, "t10k"))
    if splits.train.x.shape[1] != splits.test.x.shape[1]:
        raise ValueError(f"{folder}: the training and test images differ in size; the files do not belong together")
    return splits


def _mnist_part(folder: Path, part: str) -> Data:
    images_file, labels_file = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images, labels = _read_idx(folder, images_file, ndim=3), _read_idx(folder, labels_file, ndim=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: {images_file} holds {len(images)} images, but {labels_file} {len(labels)} labels; "
            "the two files do not belong together"
        )
    if not images.size:
        raise ValueError(f"{folder / images_file}: holds no images")
    if labels.max() > 9:
        raise ValueError(f"{folder / labels_file}: holds the label {labels.max()}, expected 0 to 9")
    return Data(jnp.asarray(images.reshape(len(images), -1), float) / 255, one_hot(labels, 10))


def _mnist_folder(path: str | os.PathLike[str] | None) -> Path:
    source = "path" if path is not None else "JAXNET_DATA"
    path = path if path is not None else os.environ.get("JAXNET_DATA")
    if not path:
        return _downloaded_mnist()
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{source} is {folder}, not a folder; name one that holds the four MNIST files")
    return folder / "mnist" if (folder / "mnist").is_dir() else folder


def _downloaded_mnist() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "downloading MNIST needs pooch: pip install pooch; or pass the folder of the files as path"
        ) from error
    folder = Path(pooch.os_cache("jaxnet")) / "mnist"
    for file, sha256 in _MNIST_SHA256.items():
        try:
            pooch.retrieve(_MNIST_URL + file, known_hash=f"sha256:{sha256}", fname=file, path=folder)
        except ValueError as error:  # the checksum
            raise ValueError(
                f"{_MNIST_URL + file}: the download does not have the checksum of MNIST; try again, or pass the "
                "folder of the files as path"
            ) from error
        except OSError as error:  # requests' errors are OSErrors
            raise ConnectionError(
                f"{_MNIST_URL + file}: the download failed ({type(error).__name__}); without a network, get the four "
                f"gzipped files elsewhere and put them into {folder}, or pass their folder as path or in JAXNET_DATA"
            ) from error
    return folder


def _read_idx(folder: Path, file: str, ndim: int) -> np.ndarray:
    """The bytes of an IDX file, gzipped or not, as an array of its shape (format: the MNIST site)."""
    path = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: neither {file} nor {file}.gz is there; name the folder that holds all four MNIST files as "
            "path or in JAXNET_DATA, or name none, and they are downloaded"
        )
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); the file is damaged or cut short, get it again") from error
    magic = bytes([0, 0, 8, ndim])  # 8: unsigned bytes
    if raw[:4] != magic:
        raise ValueError(
            f"{path}: begins with {raw[:4].hex() or 'nothing'}, expected {magic.hex()}; it is not an IDX file of bytes"
        )
    header = 4 + 4 * ndim
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    if len(raw) != header + math.prod(shape):
        raise ValueError(
            f"{path}: holds {len(raw)} bytes, expected {header + math.prod(shape)} for the shape {shape} in its "
            "header; it is damaged or cut short, get it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


# ----------------------------------------------------------------------------------------------------------------------
# Preparing


def one_hot(labels: ArrayLike, classes: int) -> Array:
    """Targets (n, classes) with a 1 in the column that each integer label (n,) names, 0 elsewhere.

    Raises TypeError if the labels are not integers, ValueError if one is not in 0 ... classes − 1.

    >>> one_hot([1, 0], 3)
    Array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    classes = checked_count("classes", classes, least=1)
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels is {describe(labels)}, expected integers")
    if labels.ndim != 1:
        raise ValueError(f"labels has shape {labels.shape}, expected (n,)")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    return jax.nn.one_hot(labels, classes)


def standardize(x: ArrayLike, like: ArrayLike | None = None) -> Array:
    """Each feature of x shifted and scaled to mean 0 and standard deviation 1.

    The means and deviations are those of ``like``, of x itself if None: ``standardize(test.x, like=train.x)``. A
    feature that is constant in ``like`` is shifted only. Raises ValueError where values are not finite or the
    numbers of features differ.

    >>> standardize([[0.0, 5.0], [2.0, 5.0]])
    Array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """
    x = _finite_table("x", x)
    like = x if like is None else _finite_table("like", like)
    if x.shape[1] != like.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features, but like has {like.shape[1]}")
    # Sums and squares are taken of numbers up to 1, so that neither large nor small features leave the range of the
    # dtype; the first unit is a power of two, which changes no digit.
    exponent = -jnp.frexp(jnp.max(jnp.abs(like), axis=0, keepdims=True))[1]
    x, like = jnp.ldexp(x, exponent), jnp.ldexp(like, exponent)
    mean = jnp.mean(like, axis=0, keepdims=True)
    widest = jnp.max(jnp.abs(like - mean), axis=0, keepdims=True)
    constant = jnp.ptp(like, axis=0, keepdims=True) == 0
    unit = jnp.where(constant, 1, widest)
    deviation = jnp.sqrt(jnp.mean(((like - mean) / unit) ** 2, axis=0, keepdims=True))
    return (x - mean) / unit / jnp.where(constant, 1, deviation)


def _finite_table(name: str, x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} is {describe(x)}, expected floats")
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"{name} has shape {x.shape}, expected (n, features) with n > 0")
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        i, j = wrong[0]
        raise ValueError(f"{name} has a value that is not finite: {x[i, j]} in example {i}, feature {j}")
    return x


def split(key: Array, data: Data, fraction: float) -> tuple[Data, Data]:
    """A random ``fraction`` of the examples, and the others: two data sets, in random order.

    The first part has round(fraction · n) examples; neither may be empty, or it is a ValueError.

    >>> train, test = split(jax.random.key(0), xor(), 0.75)
    >>> train.x.shape, test.x.shape
    ((3, 2), (1, 2))
    """
    check_key(key)
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"data is {describe(data)}, expected Data(x, y)")
    x, y = data
    if len(x) != len(y):
        raise ValueError(f"data has {len(x)} inputs, but {len(y)} targets")
    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}, expected a number between 0 and 1")
    first = round(fraction * len(x))
    if not 0 < first < len(x):
        raise ValueError(f"fraction is {fraction}, which leaves {first} and {len(x) - first} of {len(x)} examples")
    order = jax.random.permutation(key, len(x))
    x, y = jnp.asarray(x)[order], jnp.asarray(y)[order]
    return Data(x[:first], y[:first]), Data(x[first:], y[first:])
