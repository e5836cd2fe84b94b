"""Whatever a stranger's file says about itself: words, a card, a file, no traceback."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diver_lite.checks import InputError
from diver_lite.judge.protocols import learned_lr
from diver_lite.judge.record import is_drawn, set_fingerprint
from diver_lite.sets.classes import origin
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import FASHION_MNIST_CLASSES
from diver_lite.sets.sheet import in_words
from diver_lite.sets.stored import label_kind
from diver_lite.sets.writers import convert

IMAGES = torch.full((10, 3, 8, 8), 0.5)
KEYS = (
    "format", "dataset", "dataset_from", "data", "method", "soft_labels", "lr",
    "learned_lr", "experiment", "experiments", "assumed", "undone", "fit", "doubts",
    "contrast", "offset", "far_outside", "argmax_not_class_major", "ipc", "seed",
    "source", "prior",
)  # fmt: skip
WORDS = ("mtt", "DIVER", "fashion-mnist", "logits", "")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
@example({"undone": "x"})
@example({"fit": ["contrast"]})
@example({"fit": {"contrast": "low"}})
@example({"experiments": 3})
@example({"experiment": 0, "experiments": "x"})
@example({"doubts": None})
@example({"doubts": [1]})
@example({"method": ["DIVER"]})
@example({"learned_lr": "abc"})
@example({"format": "mtt", "lr": [1]})
@example({"dataset": "fashion-mnist", "lr": "abc"})
@example({"source": {"method": ["DIVER"], "soft_labels": {}}})
@example({"soft_labels": ["logits"]})
def test_any_record_is_read(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("any")
    labels = torch.arange(10)
    found = DistilledSet(IMAGES, labels, FASHION_MNIST_CLASSES, provenance=record)
    assert repr(found)
    assert "<figure" in found._repr_html_()
    assert all(isinstance(text, str) for _, text in in_words(found))
    assert label_kind(found.provenance) is None or found.provenance
    assert isinstance(learned_lr(found), float | int | None)
    assert isinstance(origin(found), str | None)
    assert is_drawn(found.provenance) in (True, False)
    assert set_fingerprint(found)
    back = DistilledSet.load(found.save(folder / "a.safetensors"))
    assert repr(back.provenance) == repr(found.provenance)
    for to in ("dd-ranking", "hf"):  # those that write something of it
        try:
            convert(found, folder / to, to, lossy=True)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_record_deeper_than_python_goes_is_refused():
    record = {}
    for _ in range(100_000):
        record = {"source": record}
    try:
        DistilledSet(IMAGES, torch.arange(10), FASHION_MNIST_CLASSES, provenance=record)
    except InputError as error:
        assert "provenance" in str(error)
