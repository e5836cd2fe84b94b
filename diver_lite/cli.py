"""The command line: `diver-lite demo | recover | distill | judge | ...`."""

from __future__ import annotations

import ast
import enum
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

import diver_lite  # reads what it names at first use: --help waits for nothing
from diver_lite.checks import InputError, ensure, printable, require
from diver_lite.files import atomic_path, check_apart, check_writable, exclusive
from diver_lite.sets.names import dataset_name, imagenet_indices, is_imagenet
from diver_lite.trust import forget_working_folder

if TYPE_CHECKING:  # --help doesn't wait for pandas
    import pandas as pd

    from diver_lite.judge.protocols import Protocol

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Refine distilled datasets with DIVER, so that other networks learn from "
        "them.\n\nStart with 'diver-lite demo -o demo': it needs no network, no GPU "
        "and no other files. Exit codes: 0 done, 1 a training diverged, 2 bad input "
        "(one line says what), 130 interrupted."
    ),
)


# What --help tells, which waits for nothing: the tests compare it with the code.
FORMATS = (
    "Formats: diver-lite, dc, mtt, datm, glad, ncfm, kip, rfad, image-folder, "
    "dd-ranking, predd"
)
SETTINGS = """Settings, with the values of --preset default:

\b
--set num_inference_steps=50     of the whole reverse process, 1 .. 1000
--set guidance_scale=1.5         of the prior's class, 1 and more
--set inheritance=True           False: begin with noise alone
--set noise_timestep=700         noise of the inherited latent, 0 .. 999
--set start=matched              or published (the grid's top), or a timestep
--set guidance_factor=0.1        strength of the pull; 0 for none
--set guidance_target=x0         what is pulled: x0 or latent
--set guidance_sigma=posterior   weight of a step: posterior, marginal, signal, one
--set window=published           where it pulls: late, early, full, none or 816,510
--set clip_input=True            clip distilled pixels to black and white first
"""


def echo(text: object, err: bool = False) -> None:
    """Print a text, in which what a file holds can't move the terminal's cursor."""
    typer.echo(printable(str(text), keep="\n"), err=err)


def _set(config: str, example: str, fields: str = ""):
    return Option(
        "--set",
        metavar="FIELD=VALUE",
        help=f"change a field of {config}, e.g. {example}; repeatable. {fields}",
    )


_quiet = False  # for this command


def _wrote(text: str) -> None:
    """Say what was written, unless nobody wants to know."""
    if not _quiet:
        echo(text)


@app.callback(invoke_without_command=True, no_args_is_help=True)
def common(
    version: Annotated[
        bool, Option("--version", help="tell the version, and which priors ship")
    ] = False,
    quiet: Annotated[
        bool,
        Option("-q", "--quiet", help="no progress bars, no word of what was written"),
    ] = False,
) -> None:
    global _quiet
    _quiet = quiet
    if version:
        echo(f"diver-lite {diver_lite.__version__}")
        echo(f"priors that ship: {', '.join(_shipped_priors())}")
        raise typer.Exit


# Options that several commands share.
Source = Annotated[
    str,
    Argument(
        metavar="INPUT",
        help="a shipped set (see 'diver-lite check') or a file or folder of any "
        "published format",
    ),
]
Dataset = Annotated[
    str | None,
    Option(
        help="which dataset the set distils, if not evident: cifar10, ... or, for its "
        "classes in its label order, an ImageNet subset: imagefruit, ..., imagenet"
    ),
]
Read = Annotated[
    list[str] | None,
    Option(
        "--read",
        metavar="FIELD=VALUE",
        help="how to read a published file, e.g. --read format=mtt --read zca=False "
        f"--read zca_reference=cifar10 (with --data-root); repeatable. {FORMATS}",
    ),
]
DataRoot = Annotated[
    Path | None,
    Option(help="folder with the dataset's files (or set DIVER_LITE_DATA)"),
]
SetFile = Annotated[Path, Option("-o", "--out", help="the .safetensors file to write")]
Trainings = Annotated[int, Option(help="trainings per table cell")]
ProtocolName = Annotated[str, Option(help="corrected, quick, literature or imagenet")]
Jobs = Annotated[
    int | None,
    Option(
        "--jobs",
        help="trainings side by side; default: one per core that may be used, or per "
        "GPU",
    ),
]
Compile = Annotated[
    bool | None, Option(help="use torch.compile; default: on CUDA only")
]
Device = Annotated[
    str | None, Option(help="cpu, cuda or cuda:N; default: CUDA if there is one")
]
Overwrite = Annotated[bool, Option("--overwrite", help="replace an output that exists")]

LIBRARIES = ("torch", "torchvision", "diffusers", "safetensors")  # told by check
# Named recovery settings.
Preset = enum.StrEnum("Preset", ["recommended", "quick", "default", "published"])


@app.command()
def demo(
    out: Annotated[Path, Option("-o", "--out", help="folder to write")] = Path("demo"),
    ipc: Annotated[int, Option(help="images per class: 1 or 10")] = 1,
    seeds: Trainings = 2,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Recover a shipped distilled set and show what that does, in one to two minutes.

    Writes color.png, garments.png, recovered.safetensors, images/ (a PNG folder to
    train on), table.csv and a self-contained report.html; prints the table.
    """
    from diver_lite.demo import run_demo

    run_demo(out, ipc=ipc, seeds=seeds, device=device, overwrite=overwrite)


@app.command(epilog=SETTINGS)
def recover(
    source: Source,
    out: Annotated[
        Path, Option("-o", "--out", help="the .safetensors file, or folder, to write")
    ],
    prior: Annotated[
        str | None,
        Option(
            help="a shipped prior, a diffusers folder (DiT, SiT, Stable Diffusion), a "
            "hub id, or code of your own, which is run: package.module:factory or "
            "path/to/file.py:factory; default: the shipped one of what INPUT distils"
        ),
    ] = None,
    prior_set: Annotated[
        list[str] | None,
        Option(
            "--prior-set",
            metavar="FIELD=VALUE",
            help="of a prior told in words: prompt='a satellite photo of {name}', "
            "negative_prompt (what guidance leads away from) or size (height and width "
            "of its images); repeatable",
        ),
    ] = None,
    preset: Annotated[
        Preset,
        Option(
            help="'recommended': what is recommended for the prior, as its folder "
            "says; 'quick': the same in ten steps at most; 'default': RecoveryConfig() "
            "whatever the prior; 'published': the paper's settings, literally"
        ),
    ] = Preset.recommended,
    set_: Annotated[
        list[str] | None,
        _set("RecoveryConfig", "--set noise_timestep=400 --set window=full"),
    ] = None,
    dataset: Dataset = None,
    read: Read = None,
    data_root: DataRoot = None,
    images: Annotated[
        Path | None, Option(help="also write a folder of PNG files")
    ] = None,
    class_map: Annotated[
        str | None,
        Option(help="the prior's class for each class of the set: 3,1,4,..."),
    ] = None,
    size: Annotated[
        int | None, Option(help="height and width of the results; default: as INPUT's")
    ] = None,
    seed: Annotated[int, Option(help="of the noise")] = 0,
    batch_size: Annotated[
        int | None, Option(help="images at a time; halved where memory runs out")
    ] = None,
    plain: Annotated[
        bool, Option("--plain", help="without the fast path, as a reference")
    ] = False,
    compile: Annotated[
        bool | None,
        Option(help="use torch.compile; default: on CUDA, from 1,000 images on"),
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Refine a distilled set and write the result.

    OUT is a .safetensors file; or, for a set larger than the memory, a folder.
    Keeps every finished batch in OUT.parts; after an interruption the same command goes
    on from there and ends with the same bytes (on GPUs: with cards of one kind).
    'accelerate launch --multi_gpu -m diver_lite recover ...' shares the batches among
    GPUs.

    Who gains? In our studies networks with batch norm; those without learn as much from
    the set as it is. 'diver-lite advise' asks yours.

    Example: diver-lite recover fashion-mnist-dm-ipc1 -o recovered.safetensors
    """
    from diver_lite.priors import contract, loading
    from diver_lite.run import processes, source_swap, to_file

    to_file.check_output(out, images, overwrite=overwrite)
    parse_config(preset, set_)  # say what is wrong before the prior is read
    words = _changes(prior_set, "--prior-set", ("prompt", "negative_prompt", "size"))
    distilled, subset = _load(source, dataset, read, data_root)
    mapping = None
    if class_map:
        mapping = _value(class_map)
        whole = isinstance(mapping, tuple)
        require(whole, "--class-map", class_map, "integers like 3,1,4")
    prior = prior or _prior_of(distilled)
    loaded = loading.load_prior(
        prior, device=processes.launched_device(device), **words
    )
    config = parse_config(preset, set_, loaded)
    if subset and mapping is None:
        mapping = _map_of_subset(subset, distilled, prior, loaded)
    result = to_file.recover_to(
        out, distilled, loaded, config, seed=seed, class_map=mapping, size=size,
        batch_size=batch_size, fast=not plain, compile=compile, images=images,
        overwrite=overwrite, progress=not _quiet,
    )  # fmt: skip
    if processes.Processes(cpu=contract.device_of(loaded).type == "cpu").index > 0:
        return  # process 0 writes and speaks
    _wrote(f"wrote {out}: {result!r}")
    if images:
        _wrote(f"wrote {images}/ ({len(result)} PNG files)")
    if config.inheritance or config.pulls:
        share = source_swap.share_of_set(
            distilled, loaded, config, seed=seed, class_map=mapping
        )
        if share < source_swap.LITTLE:
            echo(_owes_little(share), err=True)


def _owes_little(share: float) -> str:
    """Say that a result owes less to the set than to the noise."""
    return (
        f"diver-lite: warning: the result owes little to the set: {share:.0%} of what "
        f"differs between pictures of one label comes from the set, {1 - share:.0%} "
        "from the noise; judge it beside samples of the prior, which never saw the set "
        "(--set inheritance=False --set guidance_factor=0)"
    )


def _check_out(out: Path | None, suffix: str, overwrite: bool) -> None:
    """Raise `InputError` now if a result couldn't be written at the end."""
    if out is None:
        return
    ensure(out.suffix == suffix, f"--out is {out}; expected a name ending in {suffix}")
    check_writable(out, overwrite=overwrite)


def _load(
    source: str, dataset: str | None, read: list[str] | None, data_root: Path | None
) -> tuple[diver_lite.DistilledSet, str | None]:
    """Read a set; of an ImageNet subset also return that one's canonical name."""
    from diver_lite.sets import classes, load, real

    options = _changes(read, "--read", ("format", *load.READ_OPTIONS))
    if isinstance(name := options.get("zca_reference"), str):
        options["zca_reference"] = real.load_dataset(name, "train", root=data_root)[0]
    dataset = dataset and dataset_name(dataset)
    distilled = load.load_distilled(source, dataset=dataset, **options)
    if dataset and is_imagenet(dataset):
        return classes.as_subset(distilled, dataset)
    return distilled, None


def _prior_of(distilled: diver_lite.DistilledSet) -> str:
    """Return the shipped prior of what a set was distilled from."""
    from diver_lite.priors.loading import shipped_priors
    from diver_lite.sets.classes import origin

    found = origin(distilled)
    shipped = shipped_priors()
    ensure(
        found in shipped,
        f"--prior is needed: INPUT distils {found or 'something unknown'}, and priors "
        f"ship for {', '.join(shipped)} only",
    )
    return str(found)


def _map_of_subset(
    subset: str, distilled: diver_lite.DistilledSet, name: str, prior: diver_lite.Prior
) -> tuple[int, ...] | None:
    """Return the ImageNet index of each class, unless the prior knows their names."""
    from diver_lite.priors.contract import for_classes

    prior = for_classes(prior, distilled.class_names)
    if {*distilled.class_names} <= {*prior.class_names}:
        return None
    # DiT-XL/2 has ImageNet's classes in its order, with all their synonyms
    ensure(
        len(prior.class_names) >= 1000,
        f"--prior {name} knows {len(prior.class_names)} classes; subset {subset!r} "
        "needs a prior of ImageNet's 1000, such as facebook/DiT-XL-2-256",
    )
    return imagenet_indices(subset)


def parse_config(
    preset: Preset, changes: list[str] | None, prior: diver_lite.Prior | None = None
) -> diver_lite.RecoveryConfig:
    """Build a RecoveryConfig from a preset, FIELD=VALUE strings, a prior's advice."""
    values = _changes(
        changes, names=[field.name for field in fields(diver_lite.RecoveryConfig)]
    )
    if preset == Preset.published:
        return diver_lite.RecoveryConfig.published(**values)
    if prior is None or preset == Preset.default:
        config = diver_lite.RecoveryConfig(**values)
    else:
        config = diver_lite.RecoveryConfig.recommended(prior, **values)
    if preset == Preset.quick and "num_inference_steps" not in values:
        return replace(config, num_inference_steps=min(10, config.num_inference_steps))
    return config


def _changes(
    texts: list[str] | None, option: str = "--set", names: Sequence[str] = ()
) -> dict[str, Any]:
    """Read FIELD=VALUE strings, of certain fields if those are given."""
    values = {}
    for text in texts or []:
        name, found, value = text.partition("=")
        expected = f" with a field of {[*names]}" if names else ""
        ensure(
            bool(found) and name in (names or [name]),
            f"{option} {text!r}: expected FIELD=VALUE{expected}",
        )
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    """Read a Python literal; all else, such as a bare word, is a string."""
    if text.lower() in ("true", "false"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text  # the latter two of thousands of signs or brackets


@app.command()
def distill(
    method: Annotated[str, Argument(help="dm, dc, dsa or mtt")],
    out: SetFile,
    data: Annotated[
        str, Option(help="fashion-mnist, cifar10 or an image folder")
    ] = "fashion-mnist",
    split: Annotated[
        str, Option(help="fit, train or sample (1,000 images, ships)")
    ] = "fit",
    ipc: Annotated[int, Option(help="images per class")] = 1,
    set_: Annotated[
        list[str] | None,
        _set(
            "DistillConfig",
            "--set steps=300 --set init=real",
            "Fields, all as published by default: steps, lr, init, real_batch, "
            "augment, outer_loops, inner_loops, network_lr, num_experts, "
            "expert_epochs, max_start_epoch, target_epochs, syn_steps, syn_batch, "
            "syn_lr, lr_lr",
        ),
    ] = None,
    experts: Annotated[
        Path | None,
        Option(help="mtt: folder of trajectories; missing ones are trained"),
    ] = None,
    seed: Annotated[int, Option(help="of everything random")] = 0,
    compile: Compile = None,
    bfloat16: Annotated[
        bool, Option("--bfloat16", help="compute features in bfloat16")
    ] = False,
    data_root: DataRoot = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Squeeze a dataset into a few images per class (Stage I).

    Saves its state in OUT.checkpoint every minute; after an interruption the same
    command goes on from there.

    Example: diver-lite distill dm --split sample --set steps=300 -o mine.safetensors
    """
    import torch

    from diver_lite.make import distill as stage1
    from diver_lite.sets import real

    _check_out(out, ".safetensors", overwrite)
    state = out.with_suffix(".checkpoint")
    expert = experts and experts / "expert_000.safetensors"
    check_apart({"--out": out, "checkpoint": state, "a file of --experts": expert})
    changes = _changes(set_)
    stage1.recipe(method, ipc, **changes)  # say what is wrong before the data is read
    with exclusive(out):
        check_writable(out, overwrite=overwrite)  # another run may have ended just now
        images = real.load_dataset(data, split, root=data_root)
        result = stage1.distill(
            images, method, ipc=ipc, seed=seed, experts=experts, compile=compile,
            dtype=torch.bfloat16 if bfloat16 else torch.float32, device=device,
            checkpoint=state, progress=not _quiet, **changes,
        )  # fmt: skip
        result.provenance |= {
            "data": data,
            "source": real.describe_source(data, root=data_root),
            "split": split,
        }
        result.save(out, overwrite=overwrite)
        state.unlink(missing_ok=True)
    _wrote(f"wrote {out}: {result!r}")


@app.command()
def judge(
    sources: Annotated[
        list[str],
        Argument(
            metavar="SET...",
            help="shipped sets, or files or folders of any published format; "
            "NAME=FILE gives one a name in the table; {seed} in FILE stands for 0, 1, "
            "...: a draw of its own for each seed, which a verdict needs",
        ),
    ],
    data: Annotated[
        str | None,
        Option(
            help="fashion-mnist, cifar10 or an image folder; default: that of the sets"
        ),
    ] = None,
    judges: Annotated[
        str,
        Option(
            metavar="NAME,NAME,...",
            help="with a suffix for another norm, if you like: ShuffleNetV2-GN (BN, "
            "GN, IN; AdaBN is a diagnosis); or your own, whose code is run: "
            "path/to/file.py:factory, or package.module:factory of what is installed "
            "or on PYTHONPATH",
        ),
    ] = "ConvNet,ShuffleNetV2,MobileNetV2",
    seeds: Trainings = 5,
    protocol: ProtocolName = "corrected",
    set_: Annotated[
        list[str] | None,
        _set(
            "Protocol",
            "--set steps=1000 --set labels=soft (where a set carries some)",
            "Fields: steps, epochs, batch_size, optimizer, lr, weight_decay, schedule, "
            "augment, crops, cutmix, statistics, labels, judge_lr, judge_norm, "
            "learned_lr",
        ),
    ] = None,
    baseline: Annotated[
        str | None, Option(help="the set to compare with; default: the first")
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            "-o",
            "--out",
            help="a .csv file with a row per training; run the same command again to "
            "go on after an interruption, or to add sets, judges or seeds",
        ),
    ] = None,
    table: Annotated[
        Path | None, Option(help="also write the printed table, as .csv, .md or .tex")
    ] = None,
    test_images: Annotated[
        int | None, Option(help="how many test images, evenly spaced; default: all")
    ] = None,
    n_jobs: Jobs = None,
    dataset: Dataset = None,
    read: Read = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Train networks on distilled sets and score them on real test images.

    Prints accuracy per set and judge; then, for the proxy's kind (ConvNet) and for
    strangers with and without batch norm, the mean and the paired difference to a
    baseline, with a 95 % t interval over the seeds.

    Recovered images are one draw of noise: recover with --seed 0, 1, ... and name the
    files mine=recovered_{seed}.safetensors, or there will be no verdict.

    Example: diver-lite judge fashion-mnist-dm-ipc1 mine=recovered.safetensors -o t.csv
    """
    from diver_lite.judge import compare
    from diver_lite.judge.table import cross_architecture
    from diver_lite.sets.real import describe_source

    _check_out(out, ".csv", overwrite=True)
    check_apart({"--out": out, "--table": table})
    if table is not None:
        compare.check_suffix(table)
        check_writable(table, overwrite=True)
    recipe, _ = _recipe(protocol, set_)
    sets, firsts, subset = _read_sets(sources, seeds, (dataset, read, data_root))
    baseline = baseline or next(iter(sets))
    require(baseline in sets, "--baseline", baseline, f"one of {[*sets]}")
    data = data or _data_of(firsts)
    size = next(iter(firsts.values())).images.shape[-1]
    test = _test_data(data, data_root, subset, size, test_images)
    trainings = cross_architecture(
        sets, test, judges=[name.strip() for name in judges.split(",")], seeds=seeds,
        protocol=recipe, out=out, n_jobs=n_jobs, device=device,
        progress=not _quiet,
    )  # fmt: skip
    summary = compare.summarise(trainings, baseline)
    echo(
        f"Top-1 accuracy in % on {len(test[0])} real images, mean ± std of {seeds} "
        f"seeds, protocol {', '.join([protocol, *(set_ or [])])}."
    )
    _tell(trainings, summary, describe_source(data, root=data_root, split="test"))
    if table is not None:
        compare.write_table(summary, table)
        _wrote(f"\nwrote {table}")


def _recipe(protocol: str, changes: list[str] | None) -> tuple[Protocol, int | None]:
    """Return a protocol with FIELD=VALUE changes, and its steps if they are changed."""
    from diver_lite.judge.protocols import get_protocol

    recipe = get_protocol(protocol)
    values = _changes(changes, names=[field.name for field in fields(recipe)])
    # a training's length is told in one of them
    for length, other in (("steps", "epochs"), ("epochs", "steps")):
        if length in values:
            values.setdefault(other, None)
    return replace(recipe, **values), values.get("steps")


def _tell(trainings: pd.DataFrame, summary: pd.DataFrame, source: str) -> None:
    """Print what trainings scored, and what failed."""
    from diver_lite.judge.compare import blocks, footnote

    norms = trainings.groupby("judge", sort=False)["norm"].first()
    named = ", ".join(f"{judge} {norm}" for judge, norm in norms.items())
    echo(f"Norms: {named}.")
    if "AdaBN" in norms.to_numpy():
        echo(
            "AdaBN is a diagnosis: batch norm with the statistics of the (unlabelled) "
            "test images. It counts in no mean."
        )
    for each in blocks(summary):
        echo(f"\n{each.to_string()}")
    echo(f"\nscored on {source}")
    if notes := footnote(summary.filter(like=": verdict").stack()):
        echo(notes)
    failed = trainings[trainings["error"] != ""]
    for name, message in zip(failed["set"], failed["error"], strict=True):
        echo(f"failed: set {name}, {message}", err=True)


def _read_sets(
    sources: list[str], seeds: int, how: tuple
) -> tuple[dict[str, Any], dict[str, diver_lite.DistilledSet], str | None]:
    """Read the sets to judge: name -> set, or a function of the seed for {seed}.

    Also return the first draw of each, and the canonical name of their ImageNet subset.
    """
    sets = {}
    firsts = {}
    subsets = {}
    for source in sources:
        name = Path(source).stem
        file = source
        if "=" in source and not Path(source).exists():
            name, _, file = source.partition("=")
        require(name != "", "name of SET", source, "NAME=FILE")
        ensure(
            name not in sets,
            f"SET {source!r}: there is a set {name!r} already; name one of them "
            "NAME=FILE",
        )
        firsts[name], subsets[name] = _load(file.replace("{seed}", "0"), *how)
        sets[name] = firsts[name]
        if "{seed}" in file:
            others = [file.replace("{seed}", str(seed)) for seed in range(1, seeds)]
            draws = [firsts[name], *(_load(each, *how)[0] for each in others)]
            sets[name] = draws.__getitem__
    ensure(
        len({*subsets.values()}) == 1,
        f"the sets are of different subsets, {subsets}; judge those of one by "
        "themselves",
    )
    return sets, firsts, subsets.popitem()[1]


def _data_of(sets: dict[str, diver_lite.DistilledSet]) -> str:
    """Return the data that all sets were distilled from, if its test images are known.

    A set whose origin isn't known is scored on the others' data, if it has its classes.
    """
    from diver_lite.sets.classes import origin

    found = {name: data for name, each in sets.items() if (data := origin(each))}
    ensure(
        len({*found.values()}) < 2,
        f"the sets distil different data, {found}; judge them one by one, or choose "
        "--data",
    )
    data = next(iter(found.values()), "something unknown")
    ensure(
        data in ("fashion-mnist", "cifar10") or Path(data).is_dir(),
        f"--data is needed: the sets distil {data}, and test images are known for "
        "fashion-mnist and cifar10 only; pass a folder with the pictures of the test "
        "split as test/CLASS/*.png, or for an ImageNet subset val/n01440764/*.JPEG "
        "and so on (of two subsets at https://github.com/fastai/imagenette)",
    )
    return data


def _test_data(
    data: str, root: Path | None, subset: str | None, size: int, count: int | None
) -> tuple:
    """Return test images, labels and class names; of the images `count`, if given."""
    from diver_lite.sets import real

    images, labels, names = real.load_dataset(
        data, "test", root=root, image_size=size, subset=subset
    )
    if count is not None:
        total = len(images)
        require(1 <= count <= total, "--test-images", count, f"1 .. {total}")
        return _evenly((images, labels, names), count)
    return images, labels, names


def _evenly(test: tuple, count: int) -> tuple:
    """Return so many evenly spaced images, their labels, and the class names."""
    images, labels, names = test
    chosen = [i * len(images) // count for i in range(count)]
    return images[chosen], labels[chosen], names


@app.command()
def advise(
    source: Source,
    out: Annotated[Path, Option("-o", "--out", help="the folder to write")],
    prior: Annotated[
        str | None, Option(help="as of recover; default: the shipped one")
    ] = None,
    judges: Annotated[
        str, Option(metavar="NAME,NAME,...", help="as of judge; your own, too")
    ] = "ShuffleNetV2-BN,ShuffleNetV2-GN,ConvNet",
    quick: Annotated[
        bool,
        Option(
            "--quick",
            help="a first look of some minutes: 3 seeds, fewer rows and steps",
        ),
    ] = False,
    seeds: Annotated[
        int | None, Option(help="trainings of each network on each row; default: 10")
    ] = None,
    protocol: ProtocolName = "corrected",
    set_: Annotated[
        list[str] | None, _set("Protocol", "--set steps=1000", "Fields: as of judge")
    ] = None,
    data: Annotated[
        str | None, Option(help="of real pictures; default: what INPUT distils")
    ] = None,
    test_images: Annotated[
        int | None,
        Option(
            help="evenly spaced: half chooses, half scores; default: 4,000, or 2,000 "
            "with --quick, where there are so many"
        ),
    ] = None,
    n_jobs: Jobs = None,
    dataset: Dataset = None,
    read: Read = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Say whether a distilled set should be recovered, and how, for your networks.

    Judges the set as it is, through the VAE, recovered by inheritance and by DIVER,
    beside samples of the prior and random real pictures; writes a folder with a
    sentence for each network, the table, the best set. After an interruption the same
    command goes on.

    Example: diver-lite advise fashion-mnist-dsa-ipc1 --quick -o advice
    """
    from diver_lite.advice.ask import advise as run
    from diver_lite.priors.loading import load_prior

    recipe, steps = _recipe(protocol, set_)
    distilled, subset = _load(source, dataset, read, data_root)
    prior = prior or _prior_of(distilled)
    loaded = load_prior(prior, device=device)
    mapping = _map_of_subset(subset, distilled, prior, loaded) if subset else None
    data = data or _data_of({"INPUT": distilled})
    size = distilled.images.shape[-1]
    test = _test_data(data, data_root, subset, size, test_images)
    enough = 2_000 if quick else 4_000
    if test_images is None and len(test[0]) > enough:
        test = _evenly(test, enough)
    # a first look has no row of real pictures
    real = None if quick else _real_data(data, data_root, subset, size)
    advice = run(
        distilled, loaded, test, out, real=real,
        judges=[name.strip() for name in judges.split(",")], seeds=seeds,
        protocol=recipe, steps=steps, quick=quick, class_map=mapping, n_jobs=n_jobs,
        device=device, progress=not _quiet,
    )  # fmt: skip
    echo(f"\n{advice}")
    _wrote(f"\nwrote {out}/ (advice.md, best.safetensors, ...)")


def _real_data(
    data: str, root: Path | None, subset: str | None, size: int
) -> tuple | None:
    """Return real training pictures, or a sample of them, where there are some."""
    from diver_lite.sets import real

    reasons = []
    for split in ("fit", "sample"):
        try:
            return real.load_dataset(
                data, split, root=root, image_size=size, subset=subset
            )
        except InputError as error:
            reasons.append(str(error))
    warnings.warn(f"no row of random real pictures: {reasons[0]}", stacklevel=2)
    return None


@app.command()
def train_prior(
    name: Annotated[str, Argument(help="a recipe: fashion-mnist or cifar10")],
    out: Annotated[
        Path, Option("-o", "--out", help="working folder; may hold a checkpoint")
    ],
    minutes: Annotated[
        float | None, Option(help="stop after so long; run again to go on")
    ] = None,
    set_: Annotated[
        list[str] | None,
        _set(
            "PriorRecipe",
            "--set dit_steps=20000 --set objective=flow (velocities, as SiT)",
            "Fields: dataset, flip, image_fit, vae_channels, kl_weight, heads, layers, "
            "vae_steps, dit_steps, dit_lr, head_dim, patch_size, latent_channels, "
            "vae_batch, vae_lr, dit_batch, label_dropout, ema_decay, snr_gamma, "
            "objective, vae",
        ),
    ] = None,
    compile: Compile = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Train a prior (VAE, then DiT), in pieces of any length.

    The finished prior is a diffusers folder at OUT/prior, for --prior OUT/prior.
    """
    from diver_lite.make.train_prior import train_prior as run

    if run(
        name, out, minutes=minutes, data_root=data_root, device=device, compile=compile,
        progress=not _quiet, **_changes(set_),
    ):  # fmt: skip
        _wrote(f"finished: the prior is in {out / 'prior'}")
    else:
        _wrote(f"time is up: a checkpoint is in {out}; run the same command to go on")


@app.command()
def show(
    source: Source,
    out: Annotated[
        Path | None, Option("-o", "--out", help="the picture to write, .png")
    ] = None,
    classes: Annotated[int, Option(help="draw so many classes at most")] = 10,
    rows: Annotated[int, Option(help="draw so many images of each at most")] = 5,
    dataset: Dataset = None,
    read: Read = None,
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what a distilled set holds and how it was read, and draw it.

    What no file says, such as how pixels were normalised, is told with how well it
    fits: look at the colours before you go on.

    Example: diver-lite show res_DC_CIFAR10_ConvNet_1ipc.pt -o sheet.png
    """
    from diver_lite.sets.sheet import contact_sheet, in_words

    _check_out(out, ".png", overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the words tell the doubts
        distilled, _ = _load(source, dataset, read, data_root)
    sheet = contact_sheet(distilled, classes=classes, rows=rows)
    for topic, text in in_words(distilled):
        echo(f"{topic:<12} {printable(text)}")  # one line, whatever a name holds
    if out is not None:
        with atomic_path(out, overwrite=overwrite) as temporary:
            sheet.save(temporary, "PNG")
        _wrote(f"wrote {out} ({sheet.width}x{sheet.height} pixels)")


@app.command()
def convert(
    source: Source,
    out: Annotated[Path, Argument(metavar="OUT", help="the file or folder to write")],
    to: Annotated[
        str,
        Option(
            help="dc (a .pt file), mtt, dd-ranking, folder or hf (folders), or "
            "diver-lite (a .safetensors file)"
        ),
    ],
    lossy: Annotated[
        bool, Option("--lossy", help="write although something is lost; it says what")
    ] = False,
    dataset: Dataset = None,
    read: Read = None,
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a distilled set in the format of another tool.

    Pixels are normalised and classes ordered as that tool expects; 'hf' is a folder for
    Hugging Face's datasets.load_dataset, with a card. What the format has no place for
    is named, and refused without --lossy.

    Example: diver-lite convert recovered.safetensors mine --to dd-ranking
    """
    from diver_lite.sets import writers

    if to != "diver-lite":
        require(
            to in writers.TARGETS, "--to", to, f"{[*writers.TARGETS]} or diver-lite"
        )
        writers.check_target(out, to)
    check_writable(out, overwrite=overwrite)
    distilled, _ = _load(source, dataset, read, data_root)
    if to == "diver-lite":
        distilled.save(out, overwrite=overwrite)
    else:
        for lost in writers.convert(
            distilled, out, to, lossy=lossy, overwrite=overwrite
        ):
            echo(f"lost: {lost}", err=True)
    _wrote(f"wrote {out}: {distilled!r}")


@app.command()
def check(
    prior: Annotated[
        str | None,
        Option(
            help="try a prior's whole contract on small inputs instead, and print a "
            "line for each thing that is wrong: anything that 'recover' takes, such "
            "as path/to/file.py:factory"
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Report versions, devices, and the shipped files with their checksums.

    With --prior it tries a prior instead; the exit code is 2 if something is wrong.

    Example: diver-lite check --prior my_prior.py:make
    """
    import torch

    from diver_lite.assets import asset_path, list_assets
    from diver_lite.sets.load import list_shipped

    if prior is not None:
        _check_prior(prior, device)
        return
    sizes = [asset_path(name).stat().st_size for name in list_assets()]
    facts = {
        "python": sys.version.split()[0],
        "diver-lite": diver_lite.__version__,
        **{name: _version(name) for name in LIBRARIES},
        "CUDA GPUs": torch.cuda.device_count(),
        "CPU threads": torch.get_num_threads(),
        "assets": f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, sha256 ok",
        "priors": ", ".join(_shipped_priors()),
        "sets": ", ".join(list_shipped()),
    }
    for name, fact in facts.items():
        echo(f"{name:<12} {fact}")


def _check_prior(name: str, device: str | None) -> None:
    """Print what is wrong with a prior, a line each."""
    from diver_lite.priors import check, loading

    if loading.names_code(name):  # of one that breaks the contract all is told
        loaded = loading.make_own(name, device, None)
    else:
        loaded = loading.load_prior(name, device=device)
    wrong = check.check_prior(loaded)
    for line in wrong:
        echo(f"wrong: {' '.join(line.split())}")
    if wrong:
        raise SystemExit(2)
    echo(f"ok: prior {name} keeps the contract")


def _version(library: str) -> str:
    """Return the version of a library, also of one that is missing."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return f"missing; install it with: pip install {library}"


def _shipped_priors() -> list[str]:
    """Return the priors that ship, without diffusers, which may be missing."""
    from diver_lite.assets import list_assets

    return sorted({name.split("/")[1] for name in list_assets("priors/")})


def _sentence(message: Warning | str, category: type[Warning], *where: Any) -> str:
    """Return a warning as a user reads it: without our path and line of code."""
    return f"diver-lite: warning: {printable(' '.join(str(message).split()))}\n"


# Options of older versions, by command: what to write instead.
READS = {"--format": "--read format=VALUE", "--subset": "--dataset VALUE"}
REMOVED = {
    "recover": READS
    | {
        "--prompt": "--prior-set prompt=VALUE",
        "--negative-prompt": "--prior-set negative_prompt=VALUE",
        "--prior-size": "--prior-set size=VALUE",
    },
    "distill": {
        "--init": "--set init=VALUE",
        "--steps": "--set steps=VALUE",
        "--real-batch": "--set real_batch=VALUE",
    },
    "judge": READS
    | {"--steps": "--set steps=VALUE", "--soft-labels": "--set labels=soft"},
    "train-prior": {
        "--vae-steps": "--set vae_steps=VALUE",
        "--dit-steps": "--set dit_steps=VALUE",
        "--objective": "--set objective=VALUE",
    },
    "advise": READS | {"--steps": "--set steps=VALUE"},
    "show": READS,
    "convert": READS,
}


def _check_words(command: str, arguments: list[str]) -> None:
    """Raise `InputError` where an argument is empty, or of an older version."""
    removed = REMOVED.get(command, {})
    for before, each in pairwise(["", *arguments]):
        if not each or re.fullmatch("--[a-z-]+=", each):
            name = each[:-1] or (before if before[:1] == "-" else "an argument")
            raise InputError(f"{name} is empty; leave it out")
        name = each.partition("=")[0]
        if name in removed:
            raise InputError(
                f"{name} is an option of older versions; write {removed[name]}"
            )


def _quiet_first(arguments: list[str]) -> list[str]:
    """Let `--quiet` stand anywhere, though it belongs to `diver-lite` itself."""
    words = ("-q", "--quiet")
    others = [each for each in arguments if each not in words]
    return others if len(others) == len(arguments) else ["--quiet", *others]


def _as_typed(command: str, arguments: list[str], message: str) -> str:
    """Return an error in the words of the command line: --jobs for n_jobs.

    The name in front is looked at, of a setting if one was typed, or of an option.
    """
    group: Any = typer.main.get_command(app)
    known = group.commands.get(command)
    parameters = known.params if known else []
    typed = {p.name: p.opts[-1] for p in parameters if p.opts[-1].startswith("--")}
    for before, each in pairwise(arguments):
        option, value = before, each
        if each.startswith("--"):
            option, _, value = each.partition("=")
        if option in ("--set", "--read", "--prior-set"):
            field = value.partition("=")[0]
            typed[field] = f"{option} {field}"
    # a path, such as out/a.pt, begins with a name of its own
    return re.sub(r"^\w+(?=[ :])", lambda found: typed.get(found[0], found[0]), message)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    if arguments is None:
        forget_working_folder()
        arguments = sys.argv[1:]
    warnings.formatwarning = _sentence
    arguments = _quiet_first(arguments)
    command = next((each for each in arguments if each[:1] != "-"), "")
    try:
        _check_words(command, arguments)
        app(arguments)
    except (InputError, OSError) as error:  # OSError: of a file that is read
        message = _as_typed(command, arguments, " ".join(str(error).split()))
        echo(f"diver-lite: error: {message}", err=True)
        raise SystemExit(2) from None
    except FloatingPointError as error:  # a training that diverged
        echo(f"diver-lite: failed: {error}", err=True)
        raise SystemExit(1) from None
    except SystemExit as exit:
        if exit.code == 130:  # what typer makes of Ctrl-C
            echo("\ndiver-lite: interrupted; nothing half-written remains", err=True)
        raise


if __name__ == "__main__":
    main()
