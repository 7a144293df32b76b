from torchtitan.experiments.graphs.configs import with_graphs
from torchtitan.models.qwen3.config_registry import qwen3_14b


def graphs_qwen3_14b() -> Trainer.Config:
    config = with_graphs(qwen3_14b())
    config.parallelism.tensor_parallel_degree = 2
    return config
