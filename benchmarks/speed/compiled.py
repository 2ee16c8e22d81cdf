"""Programs compiled for accelerators that are not there: operations, memory traffic, temporaries, exchanges, roofline.

`python -m benchmarks.speed.compiled --out benchmarks/results/compiled.json` compiles each program with one and with
three blocks, and extrapolates by the difference to the depth of the encoder. For a GPU, temporaries are those of the
whole depth. The roofline divides traffic by the published bandwidth and products by the published rate. It is an
estimate, without caches, autotuning and products in Triton. It needs the plugins of JAX's own version, but no device:

    pip install '.[compilers]'    (H100, H200, B200: seconds a program; v5e, v5p, v6e: a minute a program)
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import tyro

from benchmarks.common import options_record, table, write_record
from benchmarks.speed.programs import PROGRAMS, WITHOUT, Size, sizes
from benchmarks.speed.targets import TARGETS
from jaxdissect.types import Json, Record

FIXED = ("front_end", "ablation_resumed")  # their programs do not depend on the number of blocks
FEW, MORE = 1, 3  # blocks of the two programs whose difference is that of MORE - FEW blocks
LOCK = "libtpu_lockfile"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compile, and for which devices."""

    out: Path | None = None  # the JSON file to write
    targets: tuple[str, ...] = ("h100", "h200", "b200", "v5e", "v5p", "v6e")
    programs: tuple[str, ...] = tuple(PROGRAMS)  # a GPU's levers one by one: `WITHOUT` of benchmarks.speed.programs
    size: Size = "base"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    clips: int = 64  # of a batch, on each device
    edits: int = 8  # of an ablation's chunk
    seconds: float = 6.0  # length of a clip
    text: Path | None = None  # folder to write the programs into, to read them
    minutes: float = 30.0  # after which a compiler is stopped

    def __post_init__(self) -> None:
        for given, known, what in ((self.targets, TARGETS, "target"), (self.programs, PROGRAMS | WITHOUT, "program")):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise SystemExit(f"Unknown {what} {', '.join(unknown)}; known: {', '.join(known)}.")
        if min(self.clips, self.edits, self.seconds, self.minutes) <= 0:
            raise SystemExit("--clips, --edits, --seconds and --minutes must be positive.")


def environment() -> dict[str, str]:
    """Variables for compilers without their devices."""
    # Without a device nothing can be tried out, and a product in Triton may find no tile.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
    found = importlib.util.find_spec("nvidia.cuda_nvcc") if importlib.util.find_spec("nvidia") else None
    tools = [str(Path(folder) / "bin") for folder in (found.submodule_search_locations or ())] if found else []
    path = os.pathsep.join([*tools, os.environ.get("PATH", "")])
    return os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": flags, "PATH": path}


def compile_for(target: str, programs: Sequence[str], blocks: Sequence[int], options: Options) -> list[Record]:
    """Compile in a process of its own, which a compiler may end.

    Raises:
      SystemExit: the compiler is missing or fails; says what to do.
    """
    words = {
        "--target": [target],
        "--programs": programs,
        "--blocks": blocks,
        "--size": [options.size],
        "--dtype": [options.dtype],
        "--clips": [options.clips],
        "--edits": [options.edits],
        "--seconds": [options.seconds],
        **({"--text": [options.text]} if options.text else {}),
    }
    command = [sys.executable, "-m", "benchmarks.speed.programs"]
    command += [str(word) for name, values in words.items() for word in (name, *values)]
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=60 * options.minutes, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SystemExit(
            f"{target}: not compiled within {options.minutes:g} minutes: take fewer --programs."
        ) from error
    if done.returncode:
        raise SystemExit(f"{target}: {explain(done.stderr, done.returncode)}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def explain(errors: str, code: int) -> str:
    """What went wrong in a compiler's process, and what helps.

    Args:
      errors: what it wrote to stderr.
      code: its exit code.
    """
    if "topology not implemented for cuda" in errors:
        return (
            "the CUDA plugin is missing, or of another version than JAX: pip install '.[compilers]' in an "
            "environment without a GPU."
        )
    if "lockfile" in errors or "already in use by process" in errors:
        return (
            f"libtpu is locked by another process, or by one that was killed: end it, or remove {LOCK} from the "
            f"temporary folder."
        )
    if "TPU support not installed" in errors or "topology not implemented for tpu" in errors:
        return "libtpu is missing, or does not know this topology: pip install '.[compilers]'."
    if "RET_CHECK failure" in errors:
        return "The versions of libtpu and JAX differ: pip install '.[compilers]'."
    last = [line for line in errors.splitlines() if line.strip() and not line.startswith(("----", "For simplicity"))]
    return f"the compiler ended with code {code}: {last[-1] if last else 'no message'}"


def whole(few: Record, more: Record, depth: int) -> Record:
    """Account of a program of the encoder's depth, from two of fewer blocks."""

    def extrapolated(a: float, b: float) -> float:
        return a + (depth - FEW) * (b - a) / (MORE - FEW)

    result: Record = {"per_block": {}}
    for name in ("main_bytes", "chip_bytes", "kernels"):
        kinds = sorted({*few[name], *more[name]})
        result[name] = {kind: extrapolated(few[name].get(kind, 0), more[name].get(kind, 0)) for kind in kinds}
        result["per_block"][name] = {
            kind: (more[name].get(kind, 0) - few[name].get(kind, 0)) / (MORE - FEW) for kind in kinds
        }
    for name in ("product_operations", "temporary_bytes"):
        result[name] = extrapolated(few[name], more[name])
    result |= {name: more[name] for name in ("collectives", "compile_seconds", "largest", "devices")}
    return result


def roofline(row: Mapping[str, Json], target: str, dtype: str, clips: int) -> Record:
    """Clips a second that bandwidth and products allow each, on one device."""
    device = TARGETS[target]
    # The front end's products are float32 whatever the encoder computes in.
    rate = device.bfloat16 if dtype == "bfloat16" and row["program"] != "front_end" else device.float32
    operations = row["product_operations"]
    by_traffic = clips * device.bandwidth / sum(row["main_bytes"].values())
    by_products = clips * rate / operations if operations else None
    return {
        "clips_per_second_by_traffic": by_traffic,
        "clips_per_second_by_products": by_products,
        "clips_per_second": min(by_traffic, by_products or by_traffic),
    }


def main() -> None:
    """Compile, extrapolate, print and write."""
    options = tyro.cli(Options, description=__doc__)
    jax.config.update("jax_platforms", "cpu")  # else this process would lock libtpu for the others
    depth = sizes(options.size).depth
    if options.text:
        options.text.mkdir(parents=True, exist_ok=True)
    rows: list[Record] = []
    failures: list[str] = []
    for target in options.targets:
        try:
            rows += compiled_rows(target, depth, options)
        except SystemExit as error:  # the other targets may have their compilers
            failures.append(str(error))
            continue
        print(table(HEAD, [_cells(row, options.clips) for row in rows]), flush=True)
        if options.out:
            write_record(options.out, ("jax", "jaxlib"), options=options_record(options, "out", "text"), rows=rows)
    if failures:
        raise SystemExit("\n".join(failures))


def compiled_rows(target: str, depth: int, options: Options) -> list[Record]:
    """Account of every program on one target, for the encoder's depth."""
    rows: list[Record] = []
    fixed = [name for name in options.programs if name in FIXED]
    deep = [name for name in options.programs if name not in FIXED]
    made = compile_for(target, fixed, [FEW], options) if fixed else []
    # Temporaries do not grow evenly. A GPU's programs are made soon enough to compile the whole depth for them.
    all_blocks = [depth] if TARGETS[target].platform == "cuda" else []
    made += compile_for(target, deep, [FEW, MORE, *all_blocks], options) if deep else []
    for name in options.programs:
        few, *more = [row for row in made if row["program"] == name]
        row = {"target": target, "program": name, **whole(few, (more or [few])[0], depth)}
        if len(more) > 1:
            row["temporary_bytes"] = more[-1]["temporary_bytes"]
        rows.append({**row, **roofline(row, target, options.dtype, options.clips)})
    return rows


HEAD = (
    "target", "program", "main memory, MB a clip", "a block", "on chip, MB a clip", "GFLOP a clip", "kernels",
    "temporaries, MiB", "collectives", "compiled in, s", "clips/s by traffic", "by products",
)  # fmt: skip


def _cells(row: Record, clips: int) -> list[str]:
    per_clip = 1e6 * clips
    block = sum(row["per_block"]["main_bytes"].values()) / per_clip
    by_products = row["clips_per_second_by_products"]
    return [
        row["target"],
        row["program"],
        f"{sum(row['main_bytes'].values()) / per_clip:.1f}",
        f"{block:.1f}",
        f"{sum(row['chip_bytes'].values()) / per_clip:.1f}",
        f"{row['product_operations'] / clips / 1e9:.1f}",
        f"{sum(row['kernels'].values()):.0f}",
        f"{row['temporary_bytes'] / 2**20:.0f}",
        str(row["collectives"]),
        f"{row['compile_seconds']:.1f}",
        f"{row['clips_per_second_by_traffic']:,.0f}",
        f"{by_products:,.0f}" if by_products else "-",
    ]


if __name__ == "__main__":
    main()
