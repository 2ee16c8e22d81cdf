"""What a compiled program does to its device's memory, kernel by kernel, from the text of the program.

On a GPU, each instruction of the program is a kernel or a call of a library; on a TPU it is a fusion. What happens
inside costs no memory traffic. So the traffic is the size of every instruction's operands and results. A loop counts as
often as the compiler says that it runs. A kernel that writes a few rows into a large array counts as if it wrote all of
it, so that the account of such kernels is an upper bound.

The compiler's own `cost_analysis` counts buffers that stay on a TPU's chip as traffic, and gives nothing for a GPU.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

BYTES = {"bf16": 2, "pred": 1, "c64": 8, "c128": 16} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
# What names a buffer or waits for one, and moves nothing.
FREE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "copy-done", "slice-done", "async-done",
    "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
ARRAY = re.compile(r"\b(bf16|pred|c64|c128|[fsu](?:8|16|32|64))\[([\d,]*)\](\{[^}]*\})?")
SHAPE = r"\((?:[^()]|\([^()]*\))*\)|\S+"
INSTRUCTION = re.compile(rf"\s+(?:ROOT )?%?([\w.\-]+) = ({SHAPE})\s+([\w\-]+)\((.*)")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
CALLED = re.compile(r"\b(?:calls|body|to_apply|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name, operation: its name, and what it does.
      shape: text of the shape of its result.
      operands: names of the instructions that it reads.
      rest: the line behind its operands: attributes.
    """

    name: str
    operation: str
    shape: str
    operands: tuple[str, ...]
    rest: str

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs."""
        return tuple(
            name.lstrip("%") for several, one in CALLED.findall(self.rest) for name in (several or one).split(", ")
        )

    @property
    def times(self) -> int:
        """How often a loop runs; 1 where the compiler does not know."""
        found = re.search(r'"known_trip_count":\s*\{"n":"(\d+)"', self.rest)
        return int(found.group(1)) if found else 1


@dataclasses.dataclass
class Account:
    """What one run of a program does on one device.

    Attributes:
      main_bytes: bytes to and from main memory, by kind of kernel.
      chip_bytes: bytes to and from buffers that stay on the chip, by kind of kernel.
      kernels: number of kernels, by kind.
      product_operations: floating-point operations of matrix products.
      collectives: number of exchanges between devices.
      largest: the kernels with most traffic: name, kind and bytes.
    """

    main_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    chip_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    kernels: Counter[str] = dataclasses.field(default_factory=Counter)
    product_operations: int = 0
    collectives: int = 0
    largest: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)


def account(text: str) -> Account:
    """Add up the traffic of a compiled program.

    Args:
      text: `as_text()` of the compiled program.
    """
    computations, entry = _parse(text)
    result = Account()
    _add(result, computations, entry, 1)
    result.largest = sorted(result.largest, key=lambda kernel: -kernel[2])[:12]
    return result


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of every computation by its name, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", list[Instruction]()
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif found := INSTRUCTION.match(line):
            name, shape, operation, rest = found.groups()
            arguments, _, attributes = rest.partition("), ")
            operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
            current.append(Instruction(name, operation, shape, operands, attributes))
    return computations, entry


def _add(total: Account, computations: dict[str, list[Instruction]], name: str, times: int) -> None:
    """Add the kernels of a computation that runs so often."""
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
        if one.operation in FREE or one.operation.endswith(("-done", "-update")):
            continue
        if one.operation in ("while", "call", "conditional"):
            for called in one.called:
                _add(total, computations, called, times * one.times)
            continue
        total.collectives += times * one.operation.startswith(COLLECTIVES)
        kind = _kind(one, computations)
        buffers = [
            *_buffers(one.shape),
            *(part for operand in one.operands for part in _buffers(shapes.get(operand, ""))),
        ]
        main = sum(size for size, on_chip in buffers if not on_chip)
        chip = sum(size for size, on_chip in buffers if on_chip)
        if one.operation in ("copy-start", "slice-start"):  # between main memory and chip: one side each
            main = chip = max((size for size, _ in buffers), default=0)
        total.main_bytes[kind] += times * main
        total.chip_bytes[kind] += times * chip
        total.kernels[kind] += times
        total.product_operations += times * sum(_product_operations(one, shapes, computations))
        total.largest.append((one.name, kind, times * main))


def _buffers(shape: str) -> Iterator[tuple[int, bool]]:
    """Bytes of every array in the text of a shape, and whether it stays on the chip."""
    for kind, sizes, layout in ARRAY.findall(shape):
        yield math.prod(_sizes(sizes)) * BYTES[kind], "S(1)" in layout


def _inside(one: Instruction, computations: dict[str, list[Instruction]]) -> set[str]:
    """All operations that an instruction does, those of its fusion too."""
    found = {one.operation}
    for called in one.called:
        for inner in computations.get(called, ()):
            found |= _inside(inner, computations)
    return found


def _kind(one: Instruction, computations: dict[str, list[Instruction]]) -> str:
    """What a kernel is for."""
    inside = _inside(one, computations)
    if one.operation == "custom-call":
        target = re.search(r'custom_call_target="([^"]+)"', one.rest)
        name = target.group(1) if target else ""
        return "product" if re.search("gemm|cublas|matmul", name, re.IGNORECASE) else f"library {name}"
    if inside & {"dot", "convolution"}:
        return "product"
    if "transpose" in one.name or one.operation in ("transpose", "copy", "copy-start", "slice-start"):
        return "copy"
    for operation, kind in (
        ("scatter", "scatter"),
        ("fft", "fft"),
        ("sort", "sort"),
        ("reduce", "reduction"),
        ("pad", "pad"),
    ):
        if operation in inside:
            return kind
    return "elementwise"


def _product_operations(
    one: Instruction, shapes: dict[str, str], computations: dict[str, list[Instruction]]
) -> Iterator[int]:
    """Operations of every matrix product of a kernel: 2 x elements of the result x length of the sums."""
    if contracted := _contracted(one):
        left, result = ARRAY.search(shapes.get(one.operands[0], "")), ARRAY.search(one.shape)
        if left and result:
            lengths = _sizes(left.group(2))
            yield 2 * math.prod(_sizes(result.group(2))) * math.prod(lengths[axis] for axis in contracted)
    if "__cudnn$fmha" in one.rest:  # attention: two products forwards; five backwards, where the scores are made again
        scores = re.findall(r'"dimensions": ?\[([^\]]*)\]', one.rest)[0].replace('"', "").replace(" ", "")
        (_, layout, _), *_ = ARRAY.findall(one.rest)
        yield 2 * (5 if "Backward" in one.rest else 2) * math.prod(_sizes(scores)) * _sizes(layout)[-1]
    if one.operation == "fusion":
        for called in one.called:
            inner = computations.get(called, [])
            inner_shapes = {each.name: each.shape for each in inner}
            for each in inner:
                yield from _product_operations(each, inner_shapes, computations)


def _contracted(one: Instruction) -> list[int]:
    """Axes of the left side that a product adds over."""
    if one.operation == "dot":
        return _sizes(re.findall(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)[0])
    if one.operation == "convolution":
        # A TPU writes every product so. Its window runs over axes of the batch and adds nothing up.
        return [re.findall(r"dim_labels=(\w+)_", one.rest)[0].index("f")]
    library = (
        re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', one.rest) if one.operation == "custom-call" else None
    )
    return [int(axis) for axis in json.loads(library.group(1))] if library else []


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]
