"""Files of distilled sets as each method's repository writes them, for the tests."""

import gzip
import struct

import numpy as np
import torch
from PIL import Image

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR10 = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
GLAD = ([0.4377, 0.4438, 0.4728], IMAGENET[1])


def pixels(count=20, size=8, channels=3, seed=0):
    """Return images on the [0, 1] scale that exceed it, as distilled ones do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=generator) + 0.5


def normalise(images, statistics):
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in statistics)
    return (images - mean) / std


def kornia_whitening(reference, images, eps=0.1):
    """Whiten as kornia.enhance.ZCAWhitening does, written independently.

    Kornia decomposes the covariance; the SVD of the few pictures gives the same
    directions, and on all others that has only eps.
    """
    flat = reference.flatten(1).double()
    mean = flat.mean(0, keepdim=True)
    _, values, rows = torch.linalg.svd(flat - mean, full_matrices=False)
    variance = values**2 / (len(flat) - 1)
    more = ((variance + eps).rsqrt() - eps**-0.5)[:, None] * rows
    centred = images.flatten(1).double() - mean
    white = centred * eps**-0.5 + centred @ rows.T @ more
    return white.view_as(images).float()


def kip_whitening(reference, images, layer_norm):
    """Whiten as KIP (with layer_norm) and RFAD do, written independently: (N, H, W, C).

    RFAD's is KIP's without the normalisation of each image.
    """
    x, y = (a.permute(0, 2, 3, 1).double() for a in (reference, images))
    mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))

    def prepare(a):
        flat = ((a - mean) / std).reshape(len(a), -1)
        if layer_norm:
            flat = flat - flat.mean(1, keepdim=True)
            flat = flat / flat.norm(dim=1, keepdim=True)
        return flat

    rows = prepare(x)
    covariance = rows.T @ rows / len(rows)
    regular = 0.1 * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    u, s, _ = torch.linalg.svd(covariance + regular)
    return (prepare(y) @ u @ torch.diag(s.rsqrt()) @ u.T).view_as(y).float().numpy()


def canvases(count=10, size=8, factor=2):
    """Return pictures in [0, 1], each of factor x factor smooth tiles."""
    generator = torch.Generator().manual_seed(1)
    side = size // factor
    tiles = torch.rand(count, 3, factor, factor, generator=generator)
    grain = torch.rand(count, 3, size, size, generator=generator)
    large = tiles.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return 0.9 * large + 0.1 * grain


def class_major(classes=10, ipc=2):
    return torch.arange(classes).repeat_interleave(ipc)


def close(found, expected):
    assert found.images.dtype == torch.float32
    assert found.images.shape == expected.shape
    assert (found.images - expected).abs().max() < 1e-5


def save_dc(path, sets):
    # numpy numbers, as `evaluate_synset` makes them
    accuracies = {"ConvNet": [np.float64(0.3), np.float64(0.4)]}
    torch.save({"data": sets, "accs_all_exps": accuracies}, path)
    return path


def save_run(folder, images, labels, name="best", lr=None):
    """Write a trajectory's files; DD-Ranking's names have no ending: name=None."""
    folder.mkdir(parents=True, exist_ok=True)
    ending = "" if name is None else f"_{name}"
    torch.save(images, folder / f"images{ending}.pt")
    torch.save(labels, folder / f"labels{ending}.pt")
    if lr is not None:
        torch.save(torch.tensor(lr), folder / f"lr{ending}.pt")
    return folder / f"images{ending}.pt"


def write_idx(path, array):
    """Write a uint8 array as a gzipped IDX file: its kind, shape and bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(folder, images, labels):
    """Write images (N, 1, 28, 28) in [0, 1] as MNIST's and its relatives' are."""
    values = (images[:, 0] * 255).round().byte().numpy()
    write_idx(folder / "train-images-idx3-ubyte.gz", values)
    write_idx(folder / "train-labels-idx1-ubyte.gz", labels.byte().numpy())


def write_images(root, folders, count=2, size=(8, 8), suffix="png"):
    """Write `count` images per folder; every pixel of one image has its own value."""
    value = 0
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            array = np.full((*size, 3), value, np.uint8)
            Image.fromarray(array).save(root / folder / f"{i}.{suffix}", quality=95)
            value += 1
    return root
