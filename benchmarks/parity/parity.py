"""Parity at full size: our encoder against transformers' ViT, and the whole chain against nnAudio and PyTorch.

`python -m benchmarks.parity.parity --data ESC-50` writes the tables of `docs/parity.md`. The chain goes from waveforms
to neuron counts. Weights are random, since arithmetic is compared; recordings are real. Expected time: a few minutes.
"""

import csv
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import tyro
from torch import nn

from benchmarks.common import build_encoder, machine, table, versions
from benchmarks.parity.comparison import Comparison
from benchmarks.parity.tracers import flax_tracer, torch_tracer
from benchmarks.speed.torch_vit import NeuronCounter, TorchViT, load_torch_vit, random_checkpoint
from jaxdissect.activations.read import read_neurons, stack_layers
from jaxdissect.audio.decode import read_clip
from jaxdissect.encoder.convert.m2d import sizes_from_name
from jaxdissect.encoder.convert.state import load_state
from jaxdissect.encoder.families.vit import ViTConfig, vit_config
from jaxdissect.runtime.files import whole_file

TINY = {"width": 64, "depth": 2, "heads": 4, "mlp": 256}
CLIP_SECONDS = 5  # of ESC-50
OTHER_SECTION = "## On a GPU\n"  # the part of the page about other machines, which this program keeps


@dataclasses.dataclass(frozen=True)
class Options:
    """Models and clips to compare."""

    data: Path  # the ESC-50 folder, with meta/esc50.csv and audio/
    out: Path = Path("docs/parity.md")  # the page to write
    size: str = "base"  # "tiny", "small", "base" or "large"
    depth: int | None = None  # blocks, if not the size's own number
    clips: int = 8  # recordings, evenly spaced over the data set
    batch: int = 2  # clips at a time
    shapes: tuple[str, ...] = ("80x208p16x16", "80x1001p16x16", "80x608p80x2", "80x608p16x16p32k")  # at a tiny width
    seed: int = 0  # of weights and inputs


def transformers_vit(checkpoint: Path, config: ViTConfig) -> nn.Module:
    """The `ViTModel` of transformers with the checkpoint's weights."""
    import transformers

    model = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
            qkv_bias=True,
            num_channels=1,
            image_size=(config.bands, config.frames),
            patch_size=(config.patch_bands, config.patch_frames),
        ),
        add_pooling_layer=False,
    )
    state = {}
    for name, array in load_state(checkpoint).items():
        if name.startswith("blocks.") and ".attn.qkv." in name:  # transformers keeps query, key and value apart
            for part, value in zip("qkv", np.split(array, 3), strict=True):
                state[_transformers_name(name.replace("attn.qkv", f"attention.{part}_proj"))] = torch.from_numpy(value)
        elif name.startswith(("cls_token", "pos_embed", "patch_embed", "blocks.", "norm.")):
            state[_transformers_name(name)] = torch.from_numpy(array)
    model.load_state_dict(state)
    return model.eval()


def _transformers_name(name: str) -> str:
    for ours, theirs in (
        ("blocks.", "layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.o_proj"),
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ):
        name = name.replace(ours, theirs)
    return name.replace("norm.", "layernorm.", 1) if name.startswith("norm.") else name


def compare_encoder(checkpoint: Path, config: ViTConfig, options: Options) -> Comparison:
    """Our ViT against transformers' on full inputs."""
    reference: Any = transformers_vit(checkpoint, config)
    mlps = [layer.mlp for layer in reference.layers]
    theirs = torch_tracer(reference, mlps, "activation_fn", lambda output: [output.last_hidden_state])
    ours, comparison = flax_tracer(build_encoder(checkpoint, config)), Comparison.empty(config.depth)
    generator = np.random.default_rng(options.seed)
    for _ in _batches(options):
        inputs = generator.standard_normal((options.batch, config.frames, config.bands), np.float32)
        comparison.add(ours(inputs), theirs(inputs))
    return comparison


def compare_chain(checkpoint: Path, config: ViTConfig, batches: Iterator[np.ndarray], sample_rate: int) -> Comparison:
    """PCM to neuron counts: `front_end` and `read_neurons` against nnAudio and PyTorch with hooks."""
    encoder, reference = build_encoder(checkpoint, config, sample_rate=sample_rate), load_torch_vit(checkpoint, config)
    ours, comparison = flax_tracer(encoder), Comparison.empty(config.depth)
    theirs = torch_tracer(reference, [block.mlp for block in reference.blocks], "act", list)
    front_end, counter = jax.jit(lambda pcm: encoder.front_end(encoder.variables, pcm)), NeuronCounter(reference)
    read = jax.jit(
        lambda params, inputs: stack_layers(
            read_neurons(encoder.module, {"params": params}, inputs, neurons=encoder.neurons)[1]
        )
    )
    nnaudio = nnaudio_front_end(reference, sample_rate)
    for pcm in batches:
        our_input, their_input = np.asarray(front_end(pcm)), nnaudio(pcm)
        comparison.log_mel.add(our_input, their_input)
        comparison.add(ours(our_input), theirs(their_input))  # each side encodes its own spectrogram
        reading = read(encoder.variables["params"], our_input)
        comparison.add_counts(np.asarray(reading.active_tokens), counter.take().active_tokens.numpy())
    return comparison


def nnaudio_front_end(model: TorchViT, sample_rate: int) -> Callable[[np.ndarray], np.ndarray]:
    """PCM -> normalised log-mel (clip, frame, band) by nnAudio."""
    from nnAudio.features import MelSpectrogram

    scale = sample_rate // 16000
    mel = MelSpectrogram(
        sr=sample_rate,
        n_fft=400 * scale,
        win_length=400 * scale,
        hop_length=160 * scale,
        n_mels=model.config.bands,
        fmin=50,
        fmax=8000 * scale,
        power=2,
        center=True,
        pad_mode="reflect",
        verbose=False,
    )
    mean, std = model.norm_stats

    def run(pcm: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            log_mel = torch.log(mel(torch.from_numpy(pcm)) + torch.finfo(torch.float32).eps)
            return ((log_mel - mean) / std).mT.contiguous().numpy()

    return run


def recordings(options: Options, sample_rate: int) -> np.ndarray:
    """PCM of recordings that are evenly spaced over the data set, (clip, sample)."""
    with (options.data / "meta" / "esc50.csv").open() as file:
        names = [row["filename"] for row in csv.DictReader(file)]
    chosen = names[:: max(1, len(names) // options.clips)][: options.clips]
    read = [read_clip(options.data, f"audio/{name}", sample_rate, CLIP_SECONDS * sample_rate) for name in chosen]
    reasons = [recording.clip.reason for recording in read if recording.clip.status == "unreadable"]
    if reasons or len(read) < options.clips:
        raise SystemExit(f"{options.clips} recordings are needed, found {len(read)}; unreadable: {reasons}")
    return np.stack([recording.pcm for recording in read])


def _batches(options: Options) -> Iterator[slice]:
    return (slice(start, start + options.batch) for start in range(0, options.clips, options.batch))


def compare_shapes(folder: Path, options: Options) -> str:
    """The whole chain at other shapes of input and patch, on clips shorter and longer than the model's width."""
    rows = []
    for shape in options.shapes:
        sizes = sizes_from_name(shape)
        config = ViTConfig(sizes.bands, sizes.frames, sizes.patch_bands, sizes.patch_frames, **TINY)
        checkpoint = random_checkpoint(folder / f"{shape}.pth", config, options.seed)
        sound = np.tile(recordings(options, sizes.sample_rate).reshape(-1), 8)
        for frames in (int(0.4 * config.frames), config.frames, config.frames + 1, int(2.3 * config.frames)):
            samples = (frames - 1) * (sizes.sample_rate // 100)
            starts = (CLIP_SECONDS * sizes.sample_rate // 2, len(sound) // 2)
            pcm = np.stack([sound[start : start + samples] for start in starts])
            comparison = compare_chain(checkpoint, config, iter([pcm]), sizes.sample_rate)
            total = comparison.total
            rows.append(
                [
                    shape,
                    frames,
                    f"{comparison.log_mel.relative_to_largest:.1e}",
                    f"{comparison.output.relative_to_largest:.1e}",
                    f"{total.after.relative_to_largest:.1e}",
                    f"{total.pairs:,}",
                    total.differing,
                    f"{comparison.differing_counts:,} of {comparison.counts:,}",
                ]
            )
    return table(["shape", "frames", "log-mel", "output", "activation", "pairs", "differing", "differing counts"], rows)


def page(config: ViTConfig, encoder: Comparison, chain: Comparison, shapes: str, options: Options) -> str:
    """The text of `docs/parity.md`."""
    packages = ", ".join(
        f"{name} {number}"
        for name, number in versions("jax", "flax", "torch", "transformers", "nnaudio", "numpy").items()
    )
    return f"""# Parity

`benchmarks/parity/parity.py` writes this page. To run it again, with ESC-50 in a folder of that name:

    python -m benchmarks.parity.parity --data ESC-50 --size {options.size} --clips {options.clips} --seed {options.seed}

Random weights, float32, on {machine()["cpu"]}. {packages}.
Encoder: {config.depth} layers, width {config.width}, {config.heads} heads, {config.mlp} neurons a layer.

Errors are relative. "Of the largest" is the largest difference over the largest value. "Of the RMS" is the root mean
square of the difference over that of the values. A *pair* is one neuron at one token. It *differs* if the neuron is
active (above zero after GELU) on one side only. Rounding can do this only to a pre-activation near zero. The last two
columns show the size of this pre-activation and the rounding, both absolute.

## The encoder against `ViTModel` of transformers

{options.clips} inputs of {config.bands} bands x {config.frames} frames, standard normal.
Final tokens: {encoder.output.text}.

{encoder.table()}

## From waveform to neuron counts

{options.clips} recordings of {CLIP_SECONDS} s from ESC-50 at 16 kHz. Reference: nnAudio's `MelSpectrogram`, logarithm,
normalisation, a PyTorch ViT with fused attention, and forward hooks. This project: `front_end` and `read_neurons`.

- Normalised log-mel: {chain.log_mel.text}.
- Final tokens: {chain.output.text}.
- Counts of active tokens, one per clip and neuron: {chain.differing_counts:,} of {chain.counts:,} differ.

{chain.table()}

## Other shapes

The same chain at width {TINY["width"]} and {TINY["depth"]} layers, on two clips: shorter than the model's width,
as long, longer by a frame, and several chunks long. Errors are relative to the largest value.

{shapes}
"""


def main(options: Options) -> None:
    """Compare, write the page, print it."""
    config = vit_config(options.size, **({"depth": options.depth} if options.depth else {}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = random_checkpoint(folder / "checkpoint.pth", config, options.seed)
        encoder = compare_encoder(checkpoint, config, options)
        pcm = recordings(options, 16000)
        chain = compare_chain(checkpoint, config, (pcm[part] for part in _batches(options)), 16000)
        text = page(config, encoder, chain, compare_shapes(folder, options), options)
    with whole_file(options.out) as temporary:
        temporary.write_text(text + section_of_other_machines(options.out))
    print(text)


def section_of_other_machines(page: Path) -> str:
    """The section of the page that this program keeps as it is."""
    _, mark, rest = (page.read_text() if page.exists() else "").partition(OTHER_SECTION)
    return f"\n{mark}{rest}" if mark else ""


if __name__ == "__main__":
    main(tyro.cli(Options))
