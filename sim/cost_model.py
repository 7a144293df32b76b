"""Seconds per layer and stage, from the shapes of the workload and the model of the hardware.

Block: the matrix products of Narayanan et al. 2021 (arXiv:2104.04473, section 3), split over
tensor-parallel ranks as in Megatron-LM, and the memory-bound kernels between them. Each backward
computes two products (input and weight gradient) for each one of the forward.
"""

from collections.abc import Sequence

from parplan.hardware.accelerator import Accelerator
from parplan.hardware.cluster import Cluster
from parplan.hardware.collective_group import Group, group_of
from parplan.hardware.collectives import Collective, collective_s
from parplan.hardware.kernel_times import gemm_s, memory_bound_s
from parplan.sim.costs import LayerCosts, ModelCosts, StageCosts
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

OPTIMIZER_BYTES = {
    # Bytes read and written per parameter: gradient, moments (and fp32 master), new parameters.
    ("adamw", "mixed"): 2 + 2 * (4 + 4 + 4) + 2,
    ("adamw", "fp32"): 4 + 2 * (4 + 4) + 2 * 4,
    ("sgd", "mixed"): 2 + 2 * 4 + 2,
    ("sgd", "fp32"): 4 + 2 * 4,
}


class _Shapes:
    """Sizes of one micro-batch on one tensor-parallel rank."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self.model = workload.model
        self.dtype = workload.precision
        self.value_bytes = workload.bytes_per_value
        self.tokens = plan.batch_per_device * workload.seq_len
        self.split = plan.tensor_parallel
        self.sequence_parallel = plan.sequence_parallel
        # Rows outside of the tensor-parallel regions; sequence parallelism splits them too.
        self.own_tokens = self.tokens / (self.split if plan.sequence_parallel else 1)


def model_costs(workload: Workload, cluster: Cluster, plan: Plan) -> ModelCosts:
    """The costs of embedding, block and head for one micro-batch on one rank of `plan`."""
    return ModelCosts(
        embedding=_embedding_costs(workload, cluster, plan),
        block=_block_costs(workload, cluster, plan),
        head=_head_costs(workload, cluster, plan),
    )


def _block_costs(workload: Workload, cluster: Cluster, plan: Plan) -> LayerCosts:
    device, shapes = cluster.accelerator, _Shapes(workload, plan)
    matrices = _block_matrices_s(device, shapes)
    attention = _attention_s(device, shapes, workload)
    elementwise = _block_elementwise_s(device, shapes)
    exchange = _exchange_s(cluster, shapes)
    forward = matrices + attention + elementwise + exchange
    # Flash attention recomputes its scores: five products in the backward for two in the forward
    # (Dao et al. 2022, arXiv:2205.14135, Appendix B).
    attention_backward = (2.5 if workload.attention == "flash" else 2.0) * attention
    recompute = {"none": 0.0, "selective": attention, "full": forward}[plan.recomputation]
    return LayerCosts(
        forward_s=forward,
        input_gradient_s=matrices + attention_backward + 2 * elementwise + exchange,
        weight_gradient_s=matrices,
        recompute_s=recompute,
    )


def _block_matrices_s(device: Accelerator, x: _Shapes) -> float:
    m, t = x.model, x.split
    ups = 2 if m.mlp == "gated" else 1
    products = (
        ((m.hidden_size + 2 * m.kv_size) // t, m.hidden_size),
        (m.hidden_size, m.hidden_size // t),
        (ups * m.ffn_size // t, m.hidden_size),
        (m.hidden_size, m.ffn_size // t),
    )
    return sum(gemm_s(device, x.tokens, n, k, x.dtype) for n, k in products)


def _attention_s(device: Accelerator, x: _Shapes, workload: Workload) -> float:
    """Scores and weighted values. Flash attention skips the masked half of the scores."""
    seq, heads = workload.seq_len, x.model.num_heads // x.split
    sequences = x.tokens // seq
    if workload.attention == "flash":
        flops = 0.5 * 4.0 * x.tokens * seq * x.model.hidden_size / x.split
        rate = device.peak_flop_per_s.of(x.dtype) * device.gemm_efficiency
        return max(flops / rate, device.kernel_launch_s)
    rows = sequences * heads * seq
    products = gemm_s(device, rows, seq, x.model.head_size, x.dtype)
    products += gemm_s(device, rows, x.model.head_size, seq, x.dtype)
    return products + memory_bound_s(device, 2 * x.value_bytes * rows * seq)


def _block_elementwise_s(device: Accelerator, x: _Shapes) -> float:
    """Two normalisations, two residual sums, rotary positions and the activation function."""
    m, t = x.model, x.split
    outside = 2 * (2 + 3) * m.hidden_size * x.own_tokens
    rotary = 0 if m.learned_positions else 2 * (m.hidden_size + m.kv_size) / t * x.tokens
    activation = (3 if m.mlp == "gated" else 2) * m.ffn_size / t * x.tokens
    return memory_bound_s(device, x.value_bytes * (outside + rotary + activation))


def _exchange_s(cluster: Cluster, x: _Shapes) -> float:
    """The two all-reduces of a block's forward over the tensor-parallel ranks.

    With sequence parallelism each is a reduce-scatter and an all-gather of the same size
    (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).
    """
    if x.split == 1:
        return 0.0
    group = group_of(cluster, range(x.split))
    num_bytes = x.value_bytes * x.tokens * x.model.hidden_size
    ops = ("reduce_scatter", "all_gather") if x.sequence_parallel else ("all_reduce",)
    return 2 * sum(_collective_s(op, num_bytes, group) for op in ops)


def _collective_s(op: str, num_bytes: float, group: Group, parts: int = 1) -> float:
    """Seconds of `parts` collectives, one after the other, that share `num_bytes` evenly."""
    return parts * collective_s(Collective(op=op, num_bytes=num_bytes / parts), group)


def _embedding_costs(workload: Workload, cluster: Cluster, plan: Plan) -> LayerCosts:
    device, x = cluster.accelerator, _Shapes(workload, plan)
    copy = memory_bound_s(device, 2 * x.value_bytes * x.tokens * x.model.hidden_size)
    exchange = _exchange_s(cluster, x) / 2
    return LayerCosts(forward_s=copy + exchange, input_gradient_s=0.0, weight_gradient_s=2 * copy)


def _head_costs(workload: Workload, cluster: Cluster, plan: Plan) -> LayerCosts:
    """Normalisation, projection to the vocabulary, and the loss on fp32 logits."""
    device, x = cluster.accelerator, _Shapes(workload, plan)
    vocab = -(-x.model.vocab_size // x.split)
    product = gemm_s(device, x.tokens, vocab, x.model.hidden_size, x.dtype)
    norm = memory_bound_s(device, 2 * x.value_bytes * x.own_tokens * x.model.hidden_size)
    # Cast to fp32, read for the maximum and the sum; the backward reads and writes them once more.
    logits = x.tokens * vocab
    loss = memory_bound_s(device, logits * (x.value_bytes + 4 + 4 + 4))
    exchange = _exchange_s(cluster, x) / 4
    return LayerCosts(
        forward_s=product + norm + loss + exchange,
        input_gradient_s=product + 2 * norm + loss + exchange,
        weight_gradient_s=product,
    )


def stage_costs(
    workload: Workload, cluster: Cluster, plan: Plan, costs: ModelCosts
) -> tuple[StageCosts, ...]:
    """The costs of every pipeline stage: its layers, and its communication over `cluster`.

    Ranks are placed with tensor parallelism innermost and the pipeline outermost.
    """
    layers = plan.layers_of_stages(workload.model.num_layers)
    parameters = stage_parameters(workload, plan)
    of_stages = [_stage_layers(costs, stage, layers) for stage in range(len(layers))]
    dp, distance = plan.data_parallel, plan.tensor_parallel
    replicas = group_of(cluster, range(0, dp * distance, distance))
    # Most stages are alike.
    alike = [(size, len(own)) for size, own in zip(parameters, of_stages, strict=True)]
    exchanges = {key: _replica_exchange_s(workload, plan, replicas, *key) for key in set(alike)}
    return tuple(
        _stage(workload, cluster, plan, own, key[0], exchanges[key])
        for own, key in zip(of_stages, alike, strict=True)
    )


def _replica_exchange_s(
    workload: Workload, plan: Plan, replicas: Group, parameters: float, num_layers: int
) -> tuple[float, float]:
    """Seconds to reduce the gradients over the data-parallel ranks, and to gather the parameters.

    Both go layer by layer.
    """
    num_bytes, parts = workload.bytes_per_value * parameters, max(1, num_layers)
    reduce = "reduce_scatter" if plan.distribute_param else "all_reduce"
    reduce_s = _collective_s(reduce, num_bytes, replicas, parts)
    if plan.zero_stage == 0:
        return reduce_s, 0.0
    return reduce_s, _collective_s("all_gather", num_bytes, replicas, parts)


def _stage_layers(costs: ModelCosts, stage: int, layers: Sequence[int]) -> list[LayerCosts]:
    first = [costs.embedding] if stage == 0 else []
    last = [costs.head] if stage == len(layers) - 1 else []
    return [*first, *[costs.block] * layers[stage], *last]


def _stage(
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    layers: Sequence[LayerCosts],
    parameters: float,
    exchange_s: tuple[float, float],
) -> StageCosts:
    dp, (reduce_s, gather_s) = plan.data_parallel, exchange_s
    gathered = gather_s if plan.distribute_low_prec_param else 0.0
    send = cluster.link_between(0, plan.tensor_parallel * dp) if plan.num_stages > 1 else None
    message_bytes = workload.bytes_per_value * plan.batch_per_device * workload.seq_len
    message_bytes *= workload.model.hidden_size // plan.tensor_parallel
    forward = sum(layer.forward_s for layer in layers)
    input_gradient = sum(layer.input_gradient_s + layer.recompute_s for layer in layers)
    weight_gradient = sum(layer.weight_gradient_s for layer in layers)
    own = parameters / (dp if plan.distribute_param else 1)
    return StageCosts(
        forward_s=prefetched_s(forward, gathered, len(layers)),
        input_gradient_s=prefetched_s(input_gradient, gathered, len(layers)),
        weight_gradient_s=weight_gradient,
        send_s=message_bytes / send.bytes_per_s if send else 0.0,
        latency_s=send.latency_s if send else 0.0,
        reduce_s=reduce_s,
        reduce_buckets=max(1, len(layers)),
        reduce_each_micro_batch=plan.distribute_gradient,
        optimizer_s=optimizer_s(workload, cluster.accelerator, own),
        gather_s=gather_s if plan.zero_stage in (1, 2) else 0.0,
    )


def prefetched_s(compute_s: float, gather_s: float, num_layers: int) -> float:
    """Seconds of `num_layers` equal layers, each computed once its parameters are gathered.

    Gathers run one after the other beside the computation, so only the first one, and whatever
    exceeds the computation of a layer, is exposed.
    """
    layers = max(1, num_layers)
    compute, gather = compute_s / layers, gather_s / layers
    return gather + (layers - 1) * max(compute, gather) + compute


def optimizer_s(workload: Workload, device: Accelerator, parameters: float) -> float:
    """Seconds of one optimizer step over `parameters` parameters: memory-bound."""
    kind = "fp32" if workload.precision == "fp32" else "mixed"
    return memory_bound_s(device, OPTIMIZER_BYTES[workload.optimizer, kind] * parameters)


def stage_parameters(workload: Workload, plan: Plan) -> tuple[float, ...]:
    """Parameters of one tensor-parallel rank of every stage.

    A tied output projection lives on the first and on the last stage when they differ.
    """
    model = workload.model
    layers = plan.layers_of_stages(model.num_layers)
    parameters = [float(n * model.block_parameters) for n in layers]
    parameters[0] += model.embedding_parameters
    parameters[-1] += model.head_parameters
    if model.tied_embeddings and len(layers) > 1:
        parameters[-1] += model.vocab_size * model.hidden_size
    return tuple(n / plan.tensor_parallel for n in parameters)
