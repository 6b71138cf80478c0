"""How long models take to load, and what memory they hold: one process a measurement.

    python bench/loading.py MODEL [MODEL …] [--quantize q4_k] [--compute auto] [--repeat 3]

First: with an empty graph cache. Again: with the graph there, the best of `repeat`. Memory: resident after a prompt of
64 tokens, less what an interpreter with the same imports holds; mapped is what the system may drop and read again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ONE = """
import json, sys, time
from pathlib import Path
import numpy as np
from narthex_server.loading import LoadOptions, load

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssAnon", "RssFile")
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(kinds)}

path, options = Path(sys.argv[1]), json.loads(sys.argv[2])
before, start = held(), time.perf_counter()
model = load(path, LoadOptions(slots=8, max_context=1024, cache_dir=Path(options.pop("cache")), **options))
seconds = time.perf_counter() - start
model.session.prefill(0, np.arange(64), 0, np.array([63]), 64)
after = held()
print(json.dumps({"seconds": seconds, "own": after["RssAnon"] - before["RssAnon"],
                  "mapped": after["RssFile"] - before["RssFile"], "parameters": model.parameters,
                  "format": model.quantization, "compute": model.compute}))
"""


def once(model: Path, options: dict[str, object]) -> dict[str, float]:
    command = [sys.executable, "-c", ONE, str(model), json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--quantize")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    print("| model | parameters | format | compute | file MB | first, s | again, s | own MB | mapped MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in args.models:
        with tempfile.TemporaryDirectory() as cache:
            options = {"cache": cache, "compute": args.compute, "quantize": args.quantize}
            first = once(model, options)
            again = min((once(model, options) for _ in range(args.repeat)), key=lambda found: found["seconds"])
        size = (
            model.stat().st_size if model.is_file() else sum(f.stat().st_size for f in model.iterdir() if f.is_file())
        )
        print(
            f"| {model.name} | {first['parameters'] / 1e6:.0f}M | {first['format']} | {first['compute']} "
            f"| {size / 1e6:.0f} | {first['seconds']:.1f} | {again['seconds']:.2f} | {again['own']:.0f} "
            f"| {again['mapped']:.0f} |"
        )


if __name__ == "__main__":
    main()
