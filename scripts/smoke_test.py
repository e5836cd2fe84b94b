"""Install a built wheel into an empty environment and use it as a stranger would.

Run: python scripts/smoke_test.py dist/*.whl [-- OPTIONS OF PIP]

The environment is made with the Python that runs this, and nothing of the checkout is
seen from it. `make wheel` builds the wheel first, from the sdist.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

LOOK = """
import sys
from importlib import metadata, resources
import diver_lite
assert diver_lite.__file__.startswith(sys.prefix), diver_lite.__file__
assert diver_lite.__version__ == metadata.version("diver-lite") == sys.argv[1]
assert resources.files("diver_lite").joinpath("py.typed").is_file()
assert "torch" not in sys.modules
needed = {line.split(";")[0].split(">")[0] for line in metadata.requires("diver-lite")
          if "extra ==" not in line}
assert "torch" in needed
assert not needed & {"ipython", "ipywidgets", "matplotlib", "seaborn"}, needed
assert resources.files("diver_lite").joinpath("demo.html").is_file()
"""
SET = "fashion-mnist-dm-ipc1"
RESULT = "recovered.safetensors"
RECOVERED = """
import sys
from diver_lite import DistilledSet
found = DistilledSet.load(sys.argv[1])
assert found.images.shape == (10, 3, 32, 32), found.images.shape
assert found.images.min() >= 0 and found.images.max() <= 1
assert found.images.std() > 0.1, "the pictures are flat"
"""


def smoke_test(wheel: Path, pip_args: list[str]) -> None:
    """Install `wheel` beside nothing else, look at it, and give each main command.

    Raises:
        subprocess.CalledProcessError: a step failed; its own output says why.

    Source: ours.
    """
    version = wheel.name.split("-")[1]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory(prefix="diver-lite-smoke-") as folder:
        home = Path(folder, "venv")
        venv.create(home, with_pip=True)
        scripts = home / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        command = scripts / "diver-lite"
        few = ["--set", "num_inference_steps=4", "--device", "cpu"]
        short = ["--judges", "ConvNet", "--seeds", "2", "--set", "steps=20"]
        short += ["--test-images", "200", "--device", "cpu"]
        for step in (
            [python, "-m", "pip", "install", "--quiet", *pip_args, wheel.resolve()],
            [python, "-c", LOOK, version],
            [command, "check"],
            [command, "recover", SET, "-o", RESULT, *few],
            [python, "-c", RECOVERED, RESULT],
            [command, "demo", "-o", "demo", "--device", "cpu"],
            [command, "judge", SET, f"mine={RESULT}", *short],
            [command, "advise", SET, "--quick", "-o", "advice", *short],
        ):
            subprocess.run(step, cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("pip_args", nargs="*", help="options for pip, after --")
    args = parser.parse_args()
    smoke_test(args.wheel, args.pip_args)
    print(f"{args.wheel.name} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
