"""Settings of a checkpoint: each is used, must have a value that is supported, is known not to matter, or raises."""

import re
from collections.abc import Mapping
from typing import Any

from jaxdissect.errors import InputError, require
from jaxdissect.types import Json

# Settings of transformers that say how a model is trained, stored or called, and not what it computes.
HARMLESS = re.compile(
    r"_name_or_path|_commit_hash|architectures|auto_map|transformers_version|model_type|torch_dtype|dtype|attn_implementation"
    r"|return_dict|output_(attentions|hidden_states)|use_return_dict|id2label|label2id|num_labels|problem_type|use_cache"
    r"|is_encoder_decoder|chunk_size_feed_forward|gradient_checkpointing|tie_word_embeddings|finetuning_task"
    r"|task_specific_params|initializer_range|(init|activation|attention|hidden|final)_.*dropout.*|.*dropout(_prob)?"
    r"|(encoder_|decoder_)?layerdrop|freeze_.*|apply_spec_augment|mask_(time|feature|channel)_.*|(pad|bos|eos|sep|cls|unk"
    r"|decoder_start)_token_id|tokenizer_class|vocab_size|ctc_.*|num_ctc_classes|.*loss_.*|.*_loss"
)


class Settings:
    """The settings of one file; `finish` refuses those that nobody has asked for."""

    def __init__(self, file: str, values: Mapping[str, Json]) -> None:
        """Begin with nothing used.

        Args:
          file: name of the file, for messages.
          values: settings by name.
        """
        self.file, self._values, self._asked = file, values, set[str]()

    def number(self, name: str, default: float | None = None) -> Any:
        """A number, of the type of `default` (whole, if there is no default).

        Args:
          name: name of the setting.
          default: value if the file has none; None: it must have one.

        Raises:
          InputError: it is no such number.
        """
        value = self._value(name, default)
        kinds = (int, float) if isinstance(default, float) else (int,)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        require(is_number, f"{self.file}: {name} must be a number, got {value!r}.")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false; arguments and errors as for `number`."""
        value = self._value(name, default)
        require(isinstance(value, bool), f"{self.file}: {name} must be true or false, got {value!r}.")
        return bool(value)

    def numbers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers; arguments and errors as for `number`."""
        value = self._value(name, default)
        are_numbers = isinstance(value, list | tuple) and all(type(number) is int for number in value)
        require(are_numbers, f"{self.file}: {name} must be a list of whole numbers, got {value!r}.")
        return tuple(value)

    def choice(self, name: str, supported: tuple[Json, ...], default: Json = None) -> Any:
        """A setting that must have one of some values.

        Args:
          name: name of the setting.
          supported: values that can be converted.
          default: value if the file has none; None: it must have one.

        Raises:
          InputError: it has another value.
        """
        value = self._values.get(name, default)
        self._asked.add(name)
        # By type, too: 1 is not true, and 0 is not false.
        fits = any(value == other and type(value) is type(other) for other in supported)
        shown = " or ".join(repr(one) for one in supported)
        require(fits, f"{self.file}: {name} is {value!r}; supported is {shown}.")
        return value

    def ignore(self, *names: str) -> None:
        """Settings of this family that do not matter for its encoder.

        Args:
          names: names of the settings.
        """
        self._asked.update(names)

    def finish(self) -> None:
        """Refuse settings that were not asked for and may matter.

        Raises:
          InputError: there are such settings.
        """
        left = {
            name: value
            for name, value in self._values.items()
            if name not in self._asked and not HARMLESS.fullmatch(name) and value not in (None, False, [], {})
        }
        shown = ", ".join(f"{name} = {str(value)[:60]}" for name, value in sorted(left.items())[:5])
        require(
            not left,
            f"{self.file}: unknown settings {shown} ({len(left)} in all); nothing is converted, because they may "
            f"matter.",
        )

    def _value(self, name: str, default: Json | tuple[int, ...]) -> Any:
        self._asked.add(name)
        value = self._values.get(name, default)
        if value is None:
            raise InputError(f"{self.file}: the setting {name} is missing.")
        return value
