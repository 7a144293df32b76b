import nemo_run as run
from nemo.collections.llm.recipes.qwen3 import qwen3_model, qwen3_trainer

NAME = "qwen3_1p7b"


def pretrain_recipe(num_nodes: int = 1, global_batch_size: int = 32) -> run.Partial:
    return run.Partial(
        pretrain,
        model=qwen3_model(version=NAME),
        trainer=qwen3_trainer(
            tensor_parallelism=2, context_parallelism=2, num_nodes=num_nodes, num_gpus_per_node=8
        ),
        data=run.Config(
            MockDataModule, seq_length=4096, global_batch_size=global_batch_size, micro_batch_size=2
        ),
        optim=distributed_fused_adam_with_cosine_annealing(precision="bf16-mixed"),
    )
