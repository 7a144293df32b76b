from megatron.bridge.recipes.common import _peft_common


def qwen3_8b_peft_config(hf_path: str = "Qwen/Qwen3-8B", **kwargs) -> ConfigContainer:
    cfg = _peft_common()
    cfg.model = AutoBridge.from_hf_pretrained(hf_path).to_megatron_provider(load_weights=False)
    cfg.peft.dim = 8 if kwargs.get("small") else 16
    set_layout_of_stages(cfg.model)
    return cfg
