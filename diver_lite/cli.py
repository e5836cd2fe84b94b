"""The command line: `diver-lite demo | recover | distill | judge | ...`."""

from __future__ import annotations

import enum
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from diver_lite import __version__
from diver_lite.checks import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Refine distilled datasets with DIVER, so that any network can learn from "
        "them.\n\nStart with 'diver-lite demo -o demo': it needs no network, no GPU "
        "and no other files. Exit codes: 0 done, 1 a training diverged, 2 bad input "
        "(one line says what), 130 interrupted."
    ),
)

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; default: CUDA if there is one")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="replace an output that exists")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="folder with the dataset's files (or set DIVER_LITE_DATA)"),
]


Subset = Annotated[
    str | None,
    typer.Option(
        help="the ImageNet subset whose classes INPUT or SET has, in its label order: "
        "imagenette, imagewoof, imagefruit, ... or imagenet for all"
    ),
]


class Preset(enum.StrEnum):
    """Named recovery settings."""

    default = "default"
    quick = "quick"
    published = "published"


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write")] = Path(
        "demo"
    ),
    ipc: Annotated[int, typer.Option(help="images per class: 1 or 10")] = 1,
    seeds: Annotated[int, typer.Option(help="trainings per table cell")] = 2,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Recover a shipped distilled set and show what that does, in about 2 minutes.

    Writes before_after.png, recovered.safetensors, images/ (a PNG folder to train on),
    table.csv and a self-contained report.html; prints the table.
    """
    from diver_lite.demo import run_demo

    run_demo(out, ipc=ipc, seeds=seeds, device=device, overwrite=overwrite)


@app.command()
def recover(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="a shipped set (see 'diver-lite check') or a file or folder of any "
            "published format",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="the .safetensors file to write")
    ],
    prior: Annotated[
        str | None,
        typer.Option(
            help="a shipped prior, a diffusers DiT folder or a hub id; default: the "
            "shipped one of what INPUT distils"
        ),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            help="'published' takes the paper's settings literally, 'quick' a fifth of "
            "the steps with a stronger pull"
        ),
    ] = Preset.default,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="change a field of RecoveryConfig, e.g. --set noise_timestep=400 "
            "--set window=full; repeatable",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="how INPUT is stored")] = "auto",
    dataset: Annotated[
        str | None, typer.Option(help="which dataset INPUT distils, if not evident")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="also write a folder of PNG files")
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option(help="the prior's class for each class of the set: 3,1,4,..."),
    ] = None,
    subset: Subset = None,
    size: Annotated[
        int | None,
        typer.Option(help="height and width of the results; default: as INPUT's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(help="images at a time; default: what memory allows")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="without the fast path, as a reference")
    ] = False,
    compile: Annotated[
        bool | None,
        typer.Option(help="use torch.compile; default: on CUDA, from 1,000 images on"),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            metavar="HIGH,LOW",
            help="classifier-free guidance while HIGH >= t > LOW only, e.g. 500,100",
        ),
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Refine a distilled set and write the result.

    Keeps every finished batch in OUT.parts; after an interruption the same command goes
    on from there and ends with the same bytes. 'accelerate launch --multi_gpu -m
    diver_lite.cli recover ...' shares the batches among GPUs.

    Example: diver-lite recover fashion-mnist-dm-ipc1 -o recovered.safetensors
    """
    from diver_lite.files import check_writable
    from diver_lite.run.interval import IntervalPrior
    from diver_lite.run.processes import Processes, launched_device
    from diver_lite.run.to_file import check_output, recover_to
    from diver_lite.sets.load import as_subset, load_distilled
    from diver_lite.sets.names import imagenet_indices, imagenet_subset
    from diver_lite.sets.priors import load_prior

    if out.suffix != ".safetensors":
        raise InputError(f"--out is {out}; expected a name ending in .safetensors")
    check_output(out, overwrite=overwrite)
    if images:
        check_writable(images, overwrite=overwrite)
    config = parse_config(preset, set_ or [])
    subset = subset and imagenet_subset(subset)
    if subset and class_map:
        raise InputError("--subset and --class-map were given; expected one of them")
    distilled = load_distilled(source, format=format, dataset=dataset or subset)
    try:
        mapping = [int(c) for c in class_map.split(",")] if class_map else None
    except ValueError:
        raise InputError(
            f"--class-map is {class_map!r}; expected integers like 3,1,4"
        ) from None
    if subset:
        distilled, subset = as_subset(distilled, subset)
    prior = prior or _prior_of(distilled)
    loaded = load_prior(prior, device=launched_device(device))
    if subset and not {*distilled.class_names} <= {*loaded.class_names}:
        # DiT-XL/2 has ImageNet's classes in its order, with all their synonyms
        if loaded.num_classes < 1000:
            raise InputError(
                f"--prior {prior} knows {loaded.num_classes} classes; subset "
                f"{subset!r} needs a prior of ImageNet's 1000, such as "
                "facebook/DiT-XL-2-256"
            )
        mapping = imagenet_indices(subset)
    if guidance_interval:
        interval = parse_changes([f"interval={guidance_interval}"])["interval"]
        loaded = IntervalPrior(loaded, interval)
    result = recover_to(
        out,
        distilled,
        loaded,
        config,
        seed=seed,
        class_map=mapping,
        batch_size=batch_size,
        size=size,
        fast=not plain,
        compile=compile,
        overwrite=overwrite,
    )
    if Processes(cpu=loaded.device.type == "cpu").index > 0:
        return  # process 0 writes and speaks
    typer.echo(f"wrote {out}: {result!r}")
    if images:
        result.to_image_folder(images, overwrite=overwrite)
        typer.echo(f"wrote {images}/ ({len(result)} PNG files)")


def _prior_of(distilled) -> str:
    """Return the shipped prior of what a set was distilled from."""
    from diver_lite.sets.classes import origin
    from diver_lite.sets.priors import shipped_priors

    found = origin(distilled)
    if found not in shipped_priors():
        what = f"distils {found!r}" if found else "doesn't say what it distils"
        raise InputError(
            f"--prior is needed: INPUT {what}, and priors ship for "
            f"{', '.join(shipped_priors())} only"
        )
    return found


def _data_of(sets: dict) -> str:
    """Return the data that all sets were distilled from, if its test images are known.

    A set whose origin isn't known is scored on the others' data, if it has its classes.
    """
    from diver_lite.sets.classes import origin

    origins = {name: origin(distilled) for name, distilled in sets.items()}
    found = {name: data for name, data in origins.items() if data}
    if len({*found.values()}) > 1:
        raise InputError(
            f"the sets distil different data, {found}; judge them one by one, or "
            "choose --data"
        )
    data = next(iter(found.values()), None)
    tested = ("fashion-mnist", "cifar10")
    if data is None or not (data in tested or Path(data).is_dir()):
        what = f"distil {data!r}" if data else "don't say what they distil"
        raise InputError(
            f"--data is needed: the sets {what}, and test images are known for "
            "fashion-mnist and cifar10 only; pass a folder that holds test/ with a "
            "folder per class (for ImageNet also --subset)"
        )
    return data


def parse_config(preset: Preset, changes: list[str]):
    """Build a RecoveryConfig from a preset and FIELD=VALUE strings."""
    from diver_lite.recovery import RecoveryConfig

    names = [field.name for field in fields(RecoveryConfig)]
    values = parse_changes(changes, names)
    make = {
        Preset.default: RecoveryConfig,
        Preset.quick: RecoveryConfig.quick,
        Preset.published: RecoveryConfig.published,
    }
    return make[preset](**values)


def parse_changes(changes: list[str], names: list[str] | None = None) -> dict:
    """Read FIELD=VALUE strings; a value is a Python literal or a bare word."""
    import ast

    values = {}
    for change in changes:
        name, found, text = change.partition("=")
        if not found or (names is not None and name not in names):
            expected = f" with a field of {names}" if names else ""
            raise InputError(f"--set {change!r}: expected FIELD=VALUE{expected}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text  # a bare word is a string
    return values


@app.command()
def distill(
    method: Annotated[str, typer.Argument(help="dm, dc, dsa or mtt")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="the .safetensors file to write")
    ],
    data: Annotated[
        str, typer.Option(help="fashion-mnist, cifar10 or an image folder")
    ] = "fashion-mnist",
    split: Annotated[
        str, typer.Option(help="fit, train or sample (1,000 images, ships)")
    ] = "fit",
    ipc: Annotated[int, typer.Option(help="images per class")] = 1,
    init: Annotated[
        str | None,
        typer.Option(help="start from 'real' or 'noise'; default: as published"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="iterations; default: as published")
    ] = None,
    real_batch: Annotated[
        int | None, typer.Option(help="real images per class and step")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="change a field of DistillConfig, e.g. --set lr=0.5; repeatable",
        ),
    ] = None,
    experts: Annotated[
        Path | None,
        typer.Option(help="mtt: folder of trajectories; missing ones are trained"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    compile: Annotated[
        bool | None, typer.Option(help="use torch.compile; default: on CUDA only")
    ] = None,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="compute features in bfloat16")
    ] = False,
    data_root: DataRoot = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Squeeze a dataset into a few images per class (Stage I).

    Saves its state in OUT.checkpoint every minute; after an interruption the same
    command goes on from there.

    Example: diver-lite distill dm --split sample --steps 300 -o mine.safetensors
    """
    import torch

    from diver_lite.files import check_writable
    from diver_lite.make.distill import distill as run
    from diver_lite.make.distill import recipe
    from diver_lite.sets.real import describe_source, load_dataset

    if out.suffix != ".safetensors":
        raise InputError(f"--out is {out}; expected a name ending in .safetensors")
    check_writable(out, overwrite=overwrite)
    changes = {"init": init, "steps": steps, "real_batch": real_batch}
    changes = {k: v for k, v in changes.items() if v is not None}
    changes |= parse_changes(set_ or [])
    recipe(method, ipc, **changes)  # say what is wrong before the data is read
    result = run(
        load_dataset(data, split, root=data_root),
        method,
        ipc=ipc,
        seed=seed,
        experts=experts,
        compile=compile,
        dtype=torch.bfloat16 if bfloat16 else torch.float32,
        device=device,
        checkpoint=out.with_suffix(".checkpoint"),
        **changes,
    )
    source = describe_source(data, root=data_root)
    result.provenance |= {"data": data, "source": source, "split": split}
    result.save(out, overwrite=overwrite)
    typer.echo(f"wrote {out}: {result!r}")


@app.command()
def judge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SET...",
            help="shipped sets, or files or folders of any published format; "
            "NAME=FILE gives one a name in the table; {seed} in FILE stands for 0, 1, "
            "...: a draw of its own for each seed, which a verdict needs",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="fashion-mnist, cifar10 or an image folder; default: what the sets "
            "distil"
        ),
    ] = None,
    judges: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,...",
            help="'unseen' stands for the paper's five, 'all' for all",
        ),
    ] = "ConvNet,ShuffleNetV2,MobileNetV2",
    seeds: Annotated[int, typer.Option(help="trainings per table cell")] = 5,
    protocol: Annotated[
        str, typer.Option(help="corrected, quick or literature")
    ] = "corrected",
    steps: Annotated[
        int | None, typer.Option(help="change the protocol's number of steps")
    ] = None,
    soft_labels: Annotated[
        bool, typer.Option("--soft-labels", help="learn them where a set carries some")
    ] = False,
    baseline: Annotated[
        str | None, typer.Option(help="the set to compare with; default: the first")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="a .csv file with a row per training; run the same command again to "
            "go on after an interruption, or to add sets, judges or seeds",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="also write the printed table, as .csv, .md or .tex"),
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option(help="how many test images, evenly spaced; default: all"),
    ] = None,
    batch_models: Annotated[
        int | None,
        typer.Option(help="trainings at once; default: 1 on a CPU, all seeds on CUDA"),
    ] = None,
    format: Annotated[str, typer.Option(help="how the sets are stored")] = "auto",
    dataset: Annotated[
        str | None, typer.Option(help="which dataset the sets distil, if not evident")
    ] = None,
    subset: Subset = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Train networks on distilled sets and score them on real test images.

    Prints accuracy per set and judge, the mean over judges that no set was distilled
    on, and the paired difference to a baseline.

    Recovered images are one draw of noise: recover with --seed 0, 1, ... and name the
    files mine=recovered_{seed}.safetensors, or there will be no verdict.

    Example: diver-lite judge fashion-mnist-dm-ipc1 mine=recovered.safetensors -o t.csv
    """
    from diver_lite.files import check_writable
    from diver_lite.judge.compare import (
        check_suffix,
        footnote,
        summarise,
        write_table,
    )
    from diver_lite.judge.networks import JUDGES, UNSEEN
    from diver_lite.judge.protocols import get_protocol
    from diver_lite.judge.table import cross_architecture
    from diver_lite.sets.load import as_subset, list_shipped, load_distilled
    from diver_lite.sets.names import imagenet_subset
    from diver_lite.sets.real import describe_source, load_dataset

    if out is not None and out.suffix != ".csv":
        raise InputError(f"--out is {out}; expected a name ending in .csv")
    if table is not None:
        check_suffix(table)
        check_writable(table, overwrite=True)
    subset = subset and imagenet_subset(subset)
    shipped, sets, subsets, firsts = list_shipped(), {}, {}, {}
    for source in sources:
        name, file = Path(source).stem, source
        if "=" in source and source not in shipped and not Path(source).exists():
            name, _, file = source.partition("=")
        if name in sets:
            raise InputError(
                f"SET {source!r}: there is a set {name!r} already; name one of them "
                "NAME=FILE"
            )
        draws = [
            load_distilled(
                file.replace("{seed}", str(seed)),
                format=format,
                dataset=dataset or subset,
            )
            for seed in range(max(seeds, 1) if "{seed}" in file else 1)
        ]
        if subset:
            draws, found = zip(*(as_subset(d, subset) for d in draws), strict=True)
            subsets[name] = found[0]
        firsts[name] = draws[0]
        sets[name] = draws.__getitem__ if "{seed}" in file else draws[0]
    if len(set(subsets.values())) > 1:
        raise InputError(
            f"the sets are of different subsets, {subsets}; no test images fit them all"
        )
    baseline = next(iter(sets)) if baseline is None else baseline
    if baseline not in sets:
        raise InputError(f"--baseline is {baseline!r}; expected one of {[*sets]}")
    data = data or _data_of(firsts)
    size = next(iter(firsts.values())).images.shape[-1]
    images, labels, names = load_dataset(
        data, "test", root=data_root, image_size=size, subset=subsets.get(baseline)
    )
    if test_images is not None:
        if not 1 <= test_images <= len(images):
            raise InputError(
                f"--test-images is {test_images}; expected 1 .. {len(images)}"
            )
        chosen = [i * len(images) // test_images for i in range(test_images)]
        images, labels = images[chosen], labels[chosen]
    groups = {"unseen": UNSEEN, "all": tuple(JUDGES)}
    panel = [j for name in judges.split(",") for j in groups.get(name, (name.strip(),))]
    recipe = get_protocol(protocol)
    trainings = cross_architecture(
        sets,
        (images, labels, names),
        judges=list(dict.fromkeys(panel)),
        seeds=seeds,
        protocol=replace(recipe, labels="soft") if soft_labels else recipe,
        steps=steps,
        out=out,
        batch_models=batch_models,
        device=device,
    )
    summary = summarise(trainings, baseline)
    typer.echo(
        f"Top-1 accuracy in % on {len(images)} real images, mean ± std of {seeds} "
        f"seeds, protocol {protocol}.\nunseen: mean of all judges but ConvNet; vs: "
        "its paired difference in points, with a 95 % t interval over the seeds.\n"
    )
    typer.echo(summary.to_string())
    typer.echo(f"\nscored on {describe_source(data, root=data_root)}")
    if notes := footnote(summary["verdict"]):
        typer.echo(notes)
    for message in trainings.loc[trainings["error"] != "", "error"].unique():
        typer.echo(f"failed: {message}", err=True)
    if table is not None:
        typer.echo(f"\nwrote {write_table(summary, table)}")


@app.command()
def train_prior(
    name: Annotated[str, typer.Argument(help="a recipe: fashion-mnist or cifar10")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="working folder; may hold a checkpoint")
    ],
    minutes: Annotated[
        float | None, typer.Option(help="stop after so long; run again to go on")
    ] = None,
    vae_steps: Annotated[int | None, typer.Option(help="change the recipe")] = None,
    dit_steps: Annotated[int | None, typer.Option(help="change the recipe")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="change a field of PriorRecipe, e.g. --set layers=6; repeatable",
        ),
    ] = None,
    compile: Annotated[
        bool | None, typer.Option(help="use torch.compile; default: on CUDA only")
    ] = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Train a prior (VAE, then DiT), in pieces of any length.

    The finished prior is a diffusers folder at OUT/prior, for --prior OUT/prior.
    """
    from diver_lite.make.train_prior import PriorRecipe
    from diver_lite.make.train_prior import train_prior as run

    steps = {"vae_steps": vae_steps, "dit_steps": dit_steps}
    changes: dict[str, Any] = {k: v for k, v in steps.items() if v is not None}
    changes |= parse_changes(set_ or [], [f.name for f in fields(PriorRecipe)])
    done = run(
        name,
        out,
        data_root=data_root,
        device=device,
        minutes=minutes,
        compile=compile,
        **changes,
    )
    typer.echo(
        f"finished: the prior is in {out / 'prior'}"
        if done
        else f"time is up: a checkpoint is in {out}; run the same command to go on"
    )


@app.command()
def check() -> None:
    """Report versions, devices, and the shipped files with their checksums."""
    import importlib.metadata as metadata

    import torch

    from diver_lite.assets import asset_path, list_assets
    from diver_lite.sets.load import list_shipped
    from diver_lite.sets.priors import shipped_priors

    typer.echo(f"python       {sys.version.split()[0]}")
    typer.echo(f"diver-lite   {__version__}")
    for package in ("torch", "torchvision", "diffusers", "safetensors"):
        typer.echo(f"{package:<12} {metadata.version(package)}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    typer.echo(f"CUDA GPU     {gpu}\nCPU threads  {torch.get_num_threads()}")
    size = sum(asset_path(name).stat().st_size for name in list_assets())
    typer.echo(
        f"assets       {len(list_assets())} files, {size / 1e6:.1f} MB, sha256 ok"
    )
    typer.echo(f"priors       {', '.join(shipped_priors())}")
    typer.echo(f"sets         {', '.join(list_shipped())}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    try:
        app(arguments)
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"diver-lite: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:  # a training that diverged
        print(f"diver-lite: failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as exit:
        if exit.code == 130:  # what typer makes of Ctrl-C
            message = "\ndiver-lite: interrupted; nothing half-written remains"
            print(message, file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
