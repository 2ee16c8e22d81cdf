"""Attention against JAX's own, and that a kernel is taken where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdissect.encoder.families import attention as module
from jaxdissect.encoder.families.attention import attention, has_cudnn


def some(dtype, shape=(2, 3, 11, 4, 8)):
    return [jax.random.normal(jax.random.key(number), shape).astype(dtype) for number in range(3)]


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_attention_is_jaxs_own(dtype, allowed):
    parts = some(dtype)
    found = attention(*parts)
    assert found.dtype == dtype
    assert found.shape == parts[0].shape
    flat = (part.reshape(-1, *part.shape[-3:]).astype(jnp.float32) for part in parts)
    with jax.default_matmul_precision("highest"):
        expected = jax.nn.dot_product_attention(*flat).reshape(found.shape)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=allowed)


def test_cudnn_is_asked_for_bfloat16_alone_and_only_where_it_is(monkeypatch):
    asked = []

    def cudnn(query, key, value):
        asked.append(query.shape)
        return module.plain_attention(query, key, value)

    monkeypatch.setattr(module, "_cudnn_attention", cudnn)
    attention(*some("bfloat16"))
    assert not has_cudnn()
    assert not asked
    monkeypatch.setattr(module, "has_cudnn", lambda: True)
    attention(*some("float32"))
    for features in (4, 136):  # of a head
        attention(*some("bfloat16", (1, 5, 2, features)))
    assert not asked
    found = jax.jit(attention)(*some("bfloat16"))  # traced for CUDA, too, and made for this platform
    assert asked == [(2, 3, 11, 4, 8)]
    np.testing.assert_array_equal(found, jax.jit(module.plain_attention)(*some("bfloat16")))
