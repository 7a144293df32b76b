from megatron.bridge.recipes.common import _pretrain_common, _sft_common


def qwen3_8b_pretrain_config() -> ConfigContainer:
    return _pretrain_common()


def qwen3_8b_sft_config() -> ConfigContainer:
    return _sft_common()
