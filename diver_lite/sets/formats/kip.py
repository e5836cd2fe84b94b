"""KIP and RFAD: NumPy's arrays, whitened, with soft labels.

Both standardise each channel of the real images, and whiten with their covariance plus
a tenth of its mean variance. Labels are floats (N, K), fitted by squared errors.

- kip (google-research/kip, DC-BENCH): `images.npy` (N, H, W, C) and `labels.npy`. Each
  image was brought to mean 0 and norm 1 as well, and what they were isn't stored.
- rfad (yolky/RFAD): `best.npz` with images (N, C, H, W), labels, and more.
"""

from __future__ import annotations

from diver_lite.checks import ensure
from diver_lite.sets.contents import is_both, load_numpy, pair
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats.job import Job


def read_numpy(job: Job) -> DistilledSet:
    """Read KIP (google-research/kip, DC-BENCH) and yolky/RFAD.

    Undone: their whitening, given the real images. KIP also brings each image to mean 0
    and norm 1, and doesn't say what they were: all get the average real image's.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.npy"]
    arrays = load_numpy(job.path)
    job.expect(
        is_both(arrays), f"found arrays {[*arrays][:9]}", "'images' and 'labels'"
    )
    images, labels = pair([arrays["images"], arrays["labels"]])
    if labels.ndim == 2:  # they were fitted by squared errors, without a softmax
        job.record["soft_labels"] = "regression targets"
    if "normalisation" in job.options:
        job.expect(
            job.told is None, "normalisation=(mean, std) was given", "none but 'none'"
        )
        return job.finish(job.as_stored(images), labels)
    ensure(
        "zca_reference" in job.options,
        "the pixels are whitened; pass the real training images as zca_reference= "
        "(--read zca_reference=cifar10, for example)",
    )
    return job.finish(job.undo_whitening(images, job.options["zca_reference"]), labels)
