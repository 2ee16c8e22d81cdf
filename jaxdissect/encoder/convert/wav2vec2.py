"""wav2vec 2.0, HuBERT, WavLM, data2vec-audio, XLS-R, MMS and MERT in the names of transformers."""

import functools
from typing import Any

import numpy as np

from jaxdissect.encoder.convert.layout import Names, State, fold_batch_norm, fold_weight_norm
from jaxdissect.encoder.convert.recipe import Head, Recipe, linear_head
from jaxdissect.encoder.convert.settings import Settings
from jaxdissect.encoder.families.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from jaxdissect.errors import InputError

LAYER = "encoder.layers.{}"
NAMES: Names = {
    "convs_{}/conv": "feature_extractor.conv_layers.{}.conv",
    "convs_{}/norm": "feature_extractor.conv_layers.{}.layer_norm",
    "feature_norm": "feature_projection.layer_norm",
    "feature_projection": "feature_projection.projection",
    "positions/norm": "encoder.pos_conv_embed.batch_norm",
    "positions/convs_{}": "encoder.pos_conv_embed.conv",
    "norm": "encoder.layer_norm",
    "blocks_{}/norm1": f"{LAYER}.layer_norm",
    "blocks_{}/norm2": f"{LAYER}.final_layer_norm",
    "blocks_{}/attn/qkv": tuple(f"{LAYER}.attention.{part}_proj" for part in "qkv"),
    "blocks_{}/attn/proj": f"{LAYER}.attention.out_proj",
    "blocks_{}/attn/relative/embedding": "encoder.layers.0.attention.rel_attn_embed.weight",  # all blocks share it
    "blocks_{}/attn/relative/constant": f"{LAYER}.attention.gru_rel_pos_const",
    "blocks_{}/attn/relative/gate": f"{LAYER}.attention.gru_rel_pos_linear",
    "blocks_{}/mlp/fc1": f"{LAYER}.feed_forward.intermediate_dense",
    "blocks_{}/mlp/fc2": f"{LAYER}.feed_forward.output_dense",
}
DATA2VEC_NAMES: Names = {**NAMES, "positions/convs_{}": "encoder.pos_conv_embed.layers.{}.conv"}
# What training masks with, quantisers and their projections, and heads that judge frames or speakers, not clips.
DROPPABLE = r"masked_spec_embed|(quantizer|project_hid|project_q|lm_head|tdnn|feature_extractor_cqt)\..*"
# Settings of training, of quantisers and of heads that are dropped.
HARMLESS = (
    "num_codevectors_per_group",
    "num_codevector_groups",
    "contrastive_logits_temperature",
    "num_negatives",
    "codevector_dim",
    "proj_codevector_dim",
    "tdnn_dim",
    "tdnn_kernel",
    "tdnn_dilation",
    "xvector_output_dim",
    "classifier_proj_size",
    "adapter_kernel_size",
    "adapter_stride",
    "num_adapter_layers",
    "output_hidden_size",
)


def shared_config(model: Settings, front_end: Settings, rates: tuple[int, ...] = (16000,)) -> dict[str, Any]:
    """The settings that all of them have, under the names of `Wav2Vec2Config`.

    Args:
      model: settings of the model.
      front_end: settings of its feature extractor.
      rates: sampling rates of the kind, Hz.

    Raises:
      InputError: a setting is not supported.
    """
    for name in ("hidden_act", "feat_extract_activation"):
        model.choice(name, ("gelu",), "gelu")
    model.choice("add_adapter", (False,), False)
    model.choice("adapter_attn_dim", (None,), None)
    model.ignore(*HARMLESS)
    front_end.choice("feature_size", (1,), 1)
    front_end.ignore("feature_extractor_type", "padding_side", "padding_value", "return_attention_mask")
    front_end.ignore("processor_class", "return_token_timestamps")
    widths = model.numbers("conv_dim", (512,) * 7)
    model.choice("num_feat_extract_layers", (len(widths),), len(widths))
    return {
        "sample_rate": front_end.choice("sampling_rate", rates),
        "normalise": front_end.flag("do_normalize"),
        "width": model.number("hidden_size", 768),
        "depth": model.number("num_hidden_layers", 12),
        "heads": model.number("num_attention_heads", 12),
        "mlp": model.number("intermediate_size", 3072),
        "epsilon": model.number("layer_norm_eps", 1e-5),
        "conv_widths": widths,
        "conv_kernels": model.numbers("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
        "conv_strides": model.numbers("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
        "conv_bias": model.flag("conv_bias", False),
        "position_groups": model.number("num_conv_pos_embedding_groups", 16),
    }


def wav2vec2_config(model: Settings, front_end: Settings) -> Wav2Vec2Config:
    """wav2vec 2.0, XLS-R and MMS; arguments and errors as for `shared_config`."""
    return Wav2Vec2Config(**shared_config(model, front_end), **_norms(model))


def hubert_config(model: Settings, front_end: Settings, rates: tuple[int, ...] = (16000,)) -> Wav2Vec2Config:
    """HuBERT; arguments and errors as for `shared_config`."""
    return Wav2Vec2Config(
        **shared_config(model, front_end, rates),
        **_norms(model),
        feature_norm=model.flag("feat_proj_layer_norm", True),
        position_norm="batch" if model.flag("conv_pos_batch_norm", False) else "none",
    )


def mert_config(model: Settings, front_end: Settings) -> Wav2Vec2Config:
    """MERT: a HuBERT on music; arguments and errors as for `shared_config`."""
    model.choice("deepnorm", (False,), False)
    model.choice("feature_extractor_cqt", (False,), False)
    model.ignore("attention_relax", "feature_extractor_cqt_bins")  # attention relaxed is the same in exact arithmetic
    return hubert_config(model, front_end, (16000, 24000))


def wavlm_config(model: Settings, front_end: Settings) -> Wav2Vec2Config:
    """WavLM; arguments and errors as for `shared_config`."""
    return Wav2Vec2Config(
        **shared_config(model, front_end),
        **_norms(model),
        buckets=model.number("num_buckets", 320),
        distance=model.number("max_bucket_distance", 800),
    )


def data2vec_config(model: Settings, front_end: Settings) -> Wav2Vec2Config:
    """data2vec-audio; arguments and errors as for `shared_config`."""
    return Wav2Vec2Config(
        **shared_config(model, front_end),
        conv_norm="layer",
        position_kernel=model.number("conv_pos_kernel_size", 19),
        position_depth=model.number("num_conv_pos_embeddings", 5),
        position_norm="layer",
    )


def _norms(model: Settings) -> dict[str, Any]:
    return {
        "norm_first": model.flag("do_stable_layer_norm", False),
        "conv_norm": model.choice("feat_extract_norm", ("group", "layer"), "group"),
        "position_kernel": model.number("num_conv_pos_embeddings", 128),
    }


def prepare(state: State, config: Wav2Vec2Config) -> State:
    """Weight norms and a batch norm as plain arrays.

    Args:
      state: arrays of the encoder by key.
      config: config of the encoder.

    Raises:
      InputError: a part of a norm is missing.
    """
    state = fold_weight_norm(state)
    return fold_batch_norm(state, "encoder.pos_conv_embed.batch_norm") if config.position_norm == "batch" else state


def clip_head(rest: dict[str, np.ndarray], model: Settings, config: Wav2Vec2Config) -> Head | None:
    """The head that judges clips: two linear layers without anything between, around a mean over time, are one.

    Args:
      rest: arrays outside of the encoder, from which the head is removed.
      model: settings of the model.
      config: config of the encoder.

    Raises:
      InputError: the head reads other layers than the last, or is incomplete.
    """
    names = ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    if not any(name.startswith("classifier.") for name in rest) or "projector.weight" not in rest:
        return None
    model.choice("use_weighted_layer_sum", (False,), False)
    parts = [rest.pop(name, None) for name in names]
    if any(part is None for part in parts):
        raise InputError(f"The task head needs {', '.join(names)}.")
    inner, inner_bias, outer, outer_bias = (np.asarray(part, np.float64) for part in parts)
    return linear_head(outer @ inner, outer @ inner_bias + outer_bias)


_recipe = functools.partial(
    Recipe,
    encoder=Wav2Vec2,
    names=NAMES,
    anchor="feature_projection.projection.weight",
    droppable=DROPPABLE,
    prepare=prepare,
    head=clip_head,
)
RECIPES = {  # by `model_type`
    "wav2vec2": _recipe(config=wav2vec2_config, prefixes=("wav2vec2.", "")),
    "hubert": _recipe(config=hubert_config, prefixes=("hubert.", "")),
    "mert_model": _recipe(config=mert_config, prefixes=("hubert.", "")),
    "wavlm": _recipe(config=wavlm_config, prefixes=("wavlm.", "")),
    "data2vec-audio": _recipe(config=data2vec_config, prefixes=("data2vec_audio.", ""), names=DATA2VEC_NAMES),
}
