"""Trainings give what they gave: else `training.RESULTS` must be raised.

Trainings that a file keeps are taken from it as long as that number is the same, so a
change of what a training computes must change it. To store results anew after raising
it: `pytest tests/judge/test_stored_trainings.py --store-results`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored_values import CALM, CHAOTIC, check_stored
from toy_sets import toy, toy_set

from diver_lite.judge.networks import JUDGES, build_judge
from diver_lite.judge.protocols import PROTOCOLS, with_statistics
from diver_lite.judge.training import RESULTS, adapt_statistics, predict, train_judge

TRAIN = toy_set(count=2)
TEST = toy(seed=9, count=2)[0]
STORED = Path(__file__).with_name("stored_trainings.json")
# judge and protocol: every network, every norm, every protocol
CASES = [(judge, "corrected") for judge in JUDGES]
CASES += [(judge, "quick") for judge in ("ShuffleNetV2-GN", "ShuffleNetV2-IN")]
CASES += [("ConvNet-AdaBN", "quick")]  # a deep one's rounding drowns what it adapts
CASES += [("ConvNet", name) for name in ("real", "literature", "imagenet")]
# in three steps momentum and weight decay show only where they are large
STRONG = {
    "strong SGD": replace(PROTOCOLS["literature"], lr=0.05, weight_decay=2.0),
    "strong AdamW": replace(PROTOCOLS["corrected"], weight_decay=100.0),
}
CASES += [("ConvNet", name) for name in STRONG]
CHAOTIC_CASES = {
    "MobileNetV2, corrected",
    "EfficientNet-B0, corrected",
    "ResNet18, corrected",
    "ShuffleNetV2-GN, quick",
    "ShuffleNetV2-IN, quick",
}


def logits_of(judge: str, name: str) -> list[float]:
    """Return what a training of three steps says of one test image."""
    protocol = with_statistics((PROTOCOLS | STRONG)[name], TEST)
    protocol = replace(protocol, steps=3, epochs=None)
    targets = protocol.targets(TRAIN)
    network = train_judge(
        judge, TRAIN.images, targets, seed=4, num_classes=3, protocol=protocol
    )
    if judge.endswith("AdaBN"):
        adapt_statistics(network, TEST, protocol)
    return [round(v, 4) for v in predict(network, TEST[:1], protocol)[0].tolist()]


@pytest.mark.parametrize(("judge", "protocol"), CASES)
def test_a_training_gives_what_it_gave(request, judge, protocol):
    """Other numbers need another `RESULTS`, or kept trainings would be mixed."""
    case = f"{judge}, {protocol}"
    share = CHAOTIC if case in CHAOTIC_CASES else CALM
    found = logits_of(judge, protocol)
    check_stored(request, STORED, case, RESULTS, found, share=share)


def test_building_leaves_the_global_generator_alone(monkeypatch):
    """Threads of the user draw from it meanwhile, and initial weights don't depend."""
    torch.manual_seed(1)
    expected = torch.rand(8)
    first = build_judge("ConvNet", 3, 32, seed=0).state_dict()
    build, drawn = JUDGES["ConvNet"], []

    def drawing(num_classes, image_size):
        with ThreadPoolExecutor(1) as another:
            drawn.append(another.submit(torch.rand, 8).result())
        return build(num_classes, image_size)

    monkeypatch.setitem(JUDGES, "ConvNet", drawing)
    torch.manual_seed(1)
    second = build_judge("ConvNet", 3, 32, seed=0).state_dict()
    assert torch.equal(drawn[0], expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


AROUND = {
    "autocast": lambda: torch.autocast("cpu"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
SET = {
    "float64": (torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 products": (torch.set_float32_matmul_precision, "medium", "highest"),
    "two threads": (torch.set_num_threads, 2, 1),
}


@pytest.fixture(scope="module")
def plain():
    return logits_of("ConvNet-AdaBN", "quick")


@pytest.mark.parametrize("state", [*AROUND, *SET])
def test_a_training_doesn_t_depend_on_what_stands_around_it(plain, state):
    """Neither do its score and what AdaBN adapts: under autocast one scored 0."""
    if state in AROUND:
        with AROUND[state]():
            assert logits_of("ConvNet-AdaBN", "quick") == plain
        return
    put, other, usual = SET[state]
    put(other)
    try:
        assert logits_of("ConvNet-AdaBN", "quick") == plain
    finally:
        put(usual)
