"""Programs of Megatron-LM and its forks beside the training of language models."""

import re

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import ImportedSettings
from parplan.experiments.interop.shell.launch_text import Flags

_WORD = r"(?:^|[_/\-])(?:{})(?:[_.\-]|$)"

UNTRAINED = "it trains no model"

REFUSED = {
    "t5|nmt|encoder_decoder": "not modelled: encoders with decoders",
    "mamba|hybrid|griffin|recurrentgemma|hyena|evo2": "not modelled: state-space layers",
    "vision|vit|dino|swin|inpaint|imagenet|classify": "not modelled: models of images",
    "generation|generate|inference|server|convert|converter|preprocess|export|quantize|ptq|"
    "evaluate|eval": UNTRAINED,
}
"""Words in the names of programs, and why these are refused."""

OTHERWISE = {
    "bert|ict|biencoder|retriever": "tokens are taken to attend to those before them alone, and "
    "heads beside that of the language model are left out",
    "retro": "not modelled: retrieval",
    "gemma2|gemma3": "blocks are taken to have two normalisations, and no windows",
    "vlm|llava|multimodal|mimo|avlm": "the language model alone is predicted",
    "dualpipev|moe_layer": "the whole model is taken to be trained",
}
"""The same of programs that are predicted, and what is assumed."""

HYBRID = (
    *("--hybrid-layer-pattern", "--hybrid-override-pattern", "--hybrid-attention-ratio"),
    *("--hybrid-mlp-ratio", "--is-hybrid-model"),
)


def check_program(flags: Flags, found: ImportedSettings) -> None:
    """Say what is assumed of another program than that of language models.

    Raises `ParplanError` for programs and arguments of what is not modelled at all.
    """
    for name in HYBRID:
        if flags.has(name):
            raise ParplanError(f"{flags.where}: {name}: not modelled: state-space layers")
    program = flags.program.lower()
    trains = re.search(r"train|finetune|sft", program.rpartition("/")[2])
    for words, why in REFUSED.items():
        if trains and why == UNTRAINED:
            continue
        if re.search(_WORD.format(words), program.rpartition("/")[2]):
            raise ParplanError(f"{flags.where}: {flags.program.rpartition('/')[2]}: {why}")
    named = "/".join(program.split("/")[-2:])
    for words, why in OTHERWISE.items():
        if re.search(_WORD.format(words), named):
            found.misread(flags.program.rpartition("/")[2], why)
