"""How long a user waits before anything happens.

    python benchmarks/startup.py [--repeats 5]

Seconds of whole processes, the fastest of a few: `llcert --help`, `import llcert`, `import torch` (the rival: what no
command that computes can do without), and one image certified. Writes results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from machine import facts

RESULTS = Path(__file__).parent / "results" / "startup.json"
MODEL = str(Path(__file__).parents[1] / "models" / "digits_relu_theta.onnx")
COMMANDS = {
    "llcert --help": ["-m", "llcert", "--help"],
    "import llcert": ["-c", "import llcert"],
    "import torch": ["-c", "import torch"],
    "one image certified": ["-m", "llcert", "certify", MODEL, "--samples", "1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds = {name: min(_seconds(command) for _ in range(arguments.repeats)) for name, command in COMMANDS.items()}
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} s, {value / seconds['import torch']:.2f} times import torch")
    RESULTS.write_text(json.dumps({"machine": facts(), "seconds": seconds}, indent=1) + "\n")


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
