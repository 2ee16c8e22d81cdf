"""The account of compiled programs: on programs written out by hand, on this machine's, and on those for a GPU."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks.speed import compiled
from benchmarks.speed.hlo_account import account

PRODUCT = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}'
BY_HAND = """HloModule jit_step, entry_computation_layout={...}

%fused (p: f32[64,3072]) -> bf16[64,3072] {
  %p = f32[64,3072]{1,0} parameter(0)
  ROOT %c = bf16[64,3072]{1,0} convert(%p)
}

%body (s: (s32[], f32[10])) -> (s32[], f32[10]) {
  %s = (s32[], f32[10]{0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %v = f32[10]{0} get-tuple-element(%s), index=1
  %doubled = f32[10]{0} add(%v, %v)
  ROOT %t = (s32[], f32[10]{0}) tuple(%n, %doubled)
}

%condition (s: (s32[], f32[10])) -> pred[] {
  %s = (s32[], f32[10]{0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %end = s32[] constant(64)
  ROOT %less = pred[] compare(%n, %end), direction=LT
}

ENTRY %main (a: f32[64,3072], b: bf16[3072,768]) -> f32[64,768] {
  %a = f32[64,3072]{1,0} parameter(0)
  %b = bf16[3072,768]{1,0} parameter(1)
  %half = bf16[64,3072]{1,0} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="convert"}
  %near = bf16[3072,768]{1,0:T(8,128)S(1)} custom-call(%b), custom_call_target="Near"
  %matmul = (f32[64,768]{1,0}, s8[100]{0}) custom-call(%half, %near), custom_call_target="__cublas$lt$matmul", PRODUCT
  %product = f32[64,768]{1,0} get-tuple-element(%matmul), index=0
  %start = (s32[], f32[10]{0}) tuple(%product, %product)
  %loop = (s32[], f32[10]{0}) while(%start), condition=%condition, body=%body, TIMES
  ROOT %all = f32[64,768]{1,0} all-reduce(%product), to_apply=%fused
}
""".replace("PRODUCT", f"backend_config={{{PRODUCT}}}").replace(
    "TIMES", 'backend_config={"known_trip_count":{"n":"64"}}'
)


def test_hlo_account_of_a_program_written_by_hand():
    found = account(BY_HAND)
    small, large = 64 * 3072, 3072 * 768
    assert found.product_operations == 2 * 64 * 768 * 3072
    assert found.main_bytes["product"] == 2 * small + 4 * 64 * 768 + 100  # its right side is on the chip
    assert found.chip_bytes["product"] == 2 * large
    assert found.main_bytes["library Near"] == found.chip_bytes["library Near"] == 2 * large
    # The fusion, 64 times round the loop, and the exchange.
    assert found.main_bytes["elementwise"] == (4 + 2) * small + 64 * 3 * 40 + 2 * 4 * 64 * 768
    assert found.kernels["elementwise"] == 1 + 64 + 1
    assert found.collectives == 1
    assert found.largest[0][0] == "near"


def test_hlo_account_counts_products_that_a_tpu_writes_as_convolutions():
    """A batch of 64 x 12 products of 191 x 64 and 64 x 191, whose window runs over the batch."""
    text = """
ENTRY %main (left: bf16[64,12,191,64], right: bf16[64,12,191,64]) -> bf16[64,12,191,191] {
  %left = bf16[64,12,191,64]{3,2,1,0} parameter(0)
  %right = bf16[64,12,191,64]{3,2,1,0} parameter(1)
  ROOT %p = bf16[64,12,191,191]{3,2,1,0:S(1)} convolution(%left, %right), window={size=64x12 stride=63x11 \
lhs_dilate=64x12}, dim_labels=01bf_01oi->01bf, operand_precision={highest,highest}
}
"""
    found = account(text)
    assert found.product_operations == 64 * 12 * 2 * 191 * 191 * 64
    assert found.main_bytes["product"] == 2 * 2 * 64 * 12 * 191 * 64
    assert found.chip_bytes["product"] == 2 * 64 * 12 * 191 * 191


@pytest.mark.parametrize(("name", "products"), [("", 2), ("Backward", 5)])
def test_hlo_account_counts_the_products_of_cudnns_attention(name, products):
    text = """
ENTRY %main (q: bf16[64,191,12,64]) -> bf16[64,12,191,64] {
  %q = bf16[64,191,12,64]{3,2,1,0} parameter(0)
  ROOT %mixed = bf16[64,12,191,64]{3,1,2,0} custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmaxNAME", \
operand_layout_constraints={bf16[64,191,12,64]{3,2,1,0}, bf16[64,191,12,64]{3,2,1,0}}, backend_config={\
"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["64", "12", "191", "191"]}}
}
"""
    found = account(text.replace("NAME", name))
    assert found.product_operations == products * 2 * 64 * 12 * 191 * 191 * 64


def test_hlo_account_of_a_program_of_this_machine_has_its_products():
    a, b = jnp.ones((32, 48)), jnp.ones((48, 64))
    program = jax.jit(lambda a, b: jnp.tanh(a @ b) @ b.T).lower(a, b).compile()
    found = account(program.as_text())
    assert found.product_operations == 2 * 32 * 48 * 64 * 2
    assert found.collectives == 0
    assert sum(found.main_bytes.values()) >= 4 * (32 * 48 + 2 * 48 * 64 + 32 * 48)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ("NotImplementedError: topology not implemented for cuda", "the CUDA plugin is missing"),
        ("RuntimeError: JAX TPU support not installed; cannot generate TPU topology.", "libtpu is missing"),
        ("ABORTED: Internal error when accessing libtpu multi-process lockfile", "end it, or remove libtpu_lockfile"),
        (
            "a\nValueError: no such thing\n--------\nFor simplicity, JAX has removed",
            "code 1: ValueError: no such thing",
        ),
        ("INTERNAL: RET_CHECK failure (hlo_instruction.cc:390)", "versions of libtpu and JAX differ"),
        ("", "code 1: no message"),
    ],
)
def test_compiled_says_in_one_paragraph_what_a_compiler_lacks(errors, told):
    message = compiled.explain(errors, 1)
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize("options", [{"targets": ("h300",)}, {"programs": ("sorting",)}, {"clips": 0}])
def test_compiled_refuses_unknown_targets_and_programs(options):
    with pytest.raises(SystemExit, match=r"known: |must be positive"):
        compiled.Options(**options)


def test_compiled_counting_on_a_gpu_adds_little_traffic_to_the_encoder():
    """Compiled for an H200 in half a minute; before, counting took six times the encoder's traffic."""
    if importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
        pytest.skip("JAX's CUDA plugin is not installed: pip install .[compilers]")
    options = compiled.Options(clips=16)
    rows = compiled.compile_for("h200", ("encoder", "counting"), [1, 3], options)
    traffic = [sum(row["main_bytes"].values()) for row in rows]
    encoder, counting = (more - few for few, more in (traffic[:2], traffic[2:]))
    assert all(row["collectives"] == 0 for row in rows)
    assert counting < 1.5 * encoder
