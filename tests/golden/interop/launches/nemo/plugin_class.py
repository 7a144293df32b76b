import nemo_run as run
import torch
from nemo import lightning as nl
from nemo.collections.llm.gpt.model.llama import Llama31Config8B, LlamaModel
from nemo.collections.llm.recipes.optim.adam import distributed_fused_adam_with_cosine_annealing
from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed


@run.cli.factory(name="llama31_8b")
def model() -> run.Config[LlamaModel]:
    return run.Config(LlamaModel, config=run.Config(Llama31Config8B, seq_length=16384))


def trainer(tensor: int = 2, context: int = 2, num_nodes: int = 1) -> run.Config[nl.Trainer]:
    strategy = run.Config(
        nl.MegatronStrategy,
        tensor_model_parallel_size=tensor,
        context_parallel_size=context,
        virtual_pipeline_model_parallel_size=None,
        sequence_parallel=tensor > 1,
        pipeline_dtype=torch.bfloat16,
        ckpt_async_save=True,
        ddp=run.Config(
            DistributedDataParallelConfig,
            check_for_nan_in_grad=True,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
        ),
    )
    return run.Config(
        nl.Trainer,
        devices=8,
        num_nodes=num_nodes,
        max_steps=1000,
        plugins=run.Config(nl.MegatronMixedPrecision, precision="16-mixed", grad_reduce_in_fp32=True),
        strategy=strategy,
        callbacks=[run.Config(TimingCallback)],
    )


def pretrain_recipe(num_nodes: int = 2, fast: bool = False) -> run.Partial:
    recipe = run.Partial(
        pretrain,
        model=model(),
        trainer=trainer(num_nodes=num_nodes),
        data=run.Config(MockDataModule, global_batch_size=64, micro_batch_size=1),
        optim=distributed_fused_adam_with_cosine_annealing(max_lr=3e-4),
        resume=default_resume(),
    )
    if fast:
        recipe = faster(recipe)
    recipe.model.config.recompute_granularity = "full"
    recipe.model.config.recompute_method = "block"
    recipe.model.config.recompute_num_layers = 8
    return recipe


def faster(recipe: run.Partial) -> run.Partial:
    recipe.trainer.callbacks.append(
        run.Config(MegatronCommOverlapCallback, tp_comm_overlap=True)
    )
    recipe.trainer.plugins.grad_reduce_in_fp32 = False
    return recipe
