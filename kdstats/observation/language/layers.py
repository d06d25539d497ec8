"""A student's start: layers removed from the middle, adapters put in, and what each student starts from."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from kdstats.errors import MissingDependencyError, UnsupportedProblemError, invalid
from kdstats.observation.language.libraries import torch
from kdstats.observation.language.models import LanguageModel, fingerprint, quiet
from kdstats.problem.language import LanguageStudent
from kdstats.streams import Seeds

__all__ = ["Base", "layer_stack", "without_middle_layers"]

#: Part of the name of an adapter's parameters.
ADAPTER = ".lora_"


def without_middle_layers(loaded: LanguageModel, n_layers: int) -> LanguageModel:
    """Return a copy with the first and last ``n_layers`` layers alone, one more of the last where it is odd.

    Parameters
    ----------
    loaded : LanguageModel
    n_layers : int
        Layers to keep, at most those there are.

    Notes
    -----
    Layers in the middle of a deep model change its output least; without them it needs some training, and less than
    a model of evenly spaced layers does.
    """
    config = copy.deepcopy(loaded.model.config)
    total = int(config.num_hidden_layers)
    if n_layers > total:
        raise invalid("n_layers", f"be at most the {total} layers of {loaded.name!r}", n_layers)
    model = copy.deepcopy(loaded.model)
    if n_layers == total:
        return replace(loaded, model=model)
    name, stack = layer_stack(model, total)
    first = n_layers // 2
    kept = [*range(first), *range(total - (n_layers - first), total)]
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], torch.nn.ModuleList(stack[i] for i in kept))
    for place, number in enumerate(kept):
        for part in stack[number].modules():
            if hasattr(part, "layer_idx"):  # where the key-value cache looks
                part.layer_idx = place
    config.num_hidden_layers = n_layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[i] for i in kept]
    for part in model.modules():
        if hasattr(part, "config"):
            part.config = config
    changed = f"{loaded.name}-{n_layers}-layers"
    return replace(loaded, model=model, name=changed, fingerprint=fingerprint(model, loaded.tokenizer))


def layer_stack(model: Any, n_layers: int) -> tuple[str, Any]:
    """Return the name and the list of a model's layers."""
    found = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n_layers
    ]
    if len(found) != 1:
        raise UnsupportedProblemError(
            f"layers can be removed from a model that has one list of {n_layers} layers; this one has {len(found)}"
        )
    return found[0]


class Base:
    """The model that students of one kind start from, with room for the parameters of one of them at a time.

    Parameters
    ----------
    loaded : LanguageModel
        Is copied.
    student : LanguageStudent
    """

    def __init__(self, loaded: LanguageModel, student: LanguageStudent) -> None:
        self.student = student
        n_layers = int(loaded.model.config.num_hidden_layers) if student.n_layers is None else student.n_layers
        self.loaded = without_middle_layers(loaded, n_layers)
        self.model = self.loaded.model
        self._pristine = {}
        if student.perturbation_sd is not None or student.method == "full":
            self._pristine = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        if student.method == "adapter":
            _put_adapters(self.model, student, n_layers)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(requires_grad=student.method == "full" or ADAPTER in name)
        if student.dtype == "bfloat16":
            for name, parameter in self.model.named_parameters():
                if student.method == "adapter" and ADAPTER not in name:
                    parameter.data = parameter.data.to(torch.bfloat16)

    @property
    def trained(self) -> dict[str, Any]:
        """Parameters that training moves, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def start(self, seeds: Seeds, number: int) -> None:
        """Set the parameters that student ``number`` starts from; the adapters' product starts as 0."""
        self._restore(seeds, number)
        for name, value in self.trained.items():
            if "lora_A" in name:
                bound = value.shape[1] ** -0.5  # as PyTorch's Linear
                stream = _generator(seeds, number, name)
                value.data.copy_((2 * torch.rand(value.shape, generator=stream) - 1) * bound)
            elif "lora_B" in name:
                value.data.zero_()

    def put(self, parameters: dict[str, Any], seeds: Seeds, number: int) -> None:
        """Set the parameters of a trained student."""
        if self.student.method == "adapter":
            self._restore(seeds, number)
        for name, value in self.trained.items():
            value.data.copy_(parameters[name])

    def _restore(self, seeds: Seeds, number: int) -> None:
        spread = self.student.perturbation_sd
        current = {name.replace(".base_layer.", "."): value for name, value in self.model.named_parameters()}
        for name, value in self._pristine.items():
            if spread:
                noise = torch.randn(value.shape, generator=_generator(seeds, number, name))
                value = value * (1.0 + spread * noise)
            current[name].data.copy_(value)


def _generator(seeds: Seeds, number: int, name: str) -> Any:
    return torch.Generator().manual_seed(seeds.torch_seed("student_initialization", number, name))


def _put_adapters(model: Any, student: LanguageStudent, n_layers: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise MissingDependencyError('adapters need peft: pip install "kdstats[language]"') from error
    adapted = n_layers if student.adapted_layers is None else student.adapted_layers
    if adapted > n_layers:
        raise invalid("adapted_layers", f"be at most the {n_layers} layers of a student", adapted)
    stack, layers = layer_stack(model, n_layers)
    targets = [
        f"{stack}.{number}.{name}"
        for number in range(n_layers - adapted, n_layers)
        for name, part in layers[number].named_modules()
        if type(part).__name__ in ("Linear", "Conv1D")
    ]
    rank = student.adapter_rank
    config = LoraConfig(r=rank, lora_alpha=student.adapter_scale * rank, target_modules=targets, lora_dropout=0.0)
    with quiet(), torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model)
