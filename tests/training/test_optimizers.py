import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from tiny_runs import brief_config, tiny_config

from ddpm_jax import experiment
from ddpm_jax.build import replicas
from ddpm_jax.build.optimizers import OPTIMIZERS
from ddpm_jax.errors import UserError
from ddpm_jax.models import Classifier, DiT, UNet, WithSchedule
from ddpm_jax.runtime import leaves, sharding
from ddpm_jax.runtime.digests import digests
from ddpm_jax.training import freezing, learning_rates, optimizers
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import init_state


@pytest.mark.parametrize(
    ("optim", "named"),
    [
        ({"name": "muno"}, "optim.name='muno': need one of adam, adamw, .*did you mean muon"),
        ({"weight_decay": 0.1}, "adam has no weight decay; set 0, or .*adamw, lion, muon"),
        ({"name": "adamw", "weight_decay": -0.1}, "weight_decay"),
        ({"name": "lion", "weight_decay": -0.1}, "weight_decay"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"options": {"beta_1": 0.5}}, "beta_1=0.5: .*did you mean beta"),
        ({"options": {"beta1": 1.5}}, "0 <= beta1 < 1, got 1.5"),
        ({"options": {"momentum": 0.5}}, r"no such option \(muon, adafactor, sgd has\)"),
        ({"name": "sgd", "options": {"momentum": 1.0}}, "0 <= momentum < 1"),
        ({"name": "muon", "options": {"num_iterations": 0}}, "num_iterations >= 1"),
        ({"name": "muon", "options": {"adam_rate": 0.0}}, "adam_rate > 0"),
        ({"name": "adafactor", "options": {"decay_rate": 0.0}}, "decay_rate > 0"),
        ({"name": "adafactor", "options": {"clipping_threshold": 0.5}}, "clipping_threshold >= 1"),
    ],
)
def test_a_bad_optimizer_is_named(optim, named):
    with pytest.raises(UserError, match=named):
        experiment.build(tiny_config(optim=optim))


def made(name, rate, *, grad_clip=0.0, **options):
    """As config.optim names it."""
    return optimizers.clipped(OPTIMIZERS[name](rate, **options), grad_clip)


def warm_up(peak):
    return learning_rates.learning_rate(peak, warmup_steps=5, decay=learning_rates.constant())


def problem(shapes, steps=30, seed=0):
    """Parameters, and gradients whose norms lie on both sides of 1: Adam sees no common factor."""
    rng = np.random.default_rng(seed)
    start = {k: rng.normal(size=shape) for k, shape in shapes.items()}
    gradients = [
        {k: rng.normal(size=v.shape) * 3.0 ** rng.integers(-3, 3) for k, v in start.items()}
        for _ in range(steps)
    ]
    return start, gradients


def moved(optimizer, start, gradients):
    """The parameters after all of the gradients."""
    params = {k: jnp.asarray(v, jnp.float32) for k, v in start.items()}
    update, opt_state = jax.jit(optimizer.update), optimizer.init(params)
    for gradient in gradients:
        gradient = {k: jnp.asarray(v, jnp.float32) for k, v in gradient.items()}
        updates, opt_state = update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


# (our name, our options, torch's class, its options, the learning rate's peak, tolerance over it)
PEERS = [
    ("adam", {}, "Adam", {}, 0.1, 1e-4),
    ("adam", {"grad_clip": 1.0}, "Adam", {}, 0.1, 1e-4),
    ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}, 0.1, 1e-4),
    ("sgd", {}, "SGD", {"momentum": 0.9}, 1e-3, 1e-2),
    ("sgd", {"momentum": 0.0}, "SGD", {}, 1e-3, 1e-2),
    (
        "sgd",
        {"momentum": 0.5, "nesterov": True},
        "SGD",
        {"momentum": 0.5, "nesterov": True},
        1e-3,
        1e-2,
    ),
    # Its rate is min(lr, 1 / sqrt(t)), and the first of these all along.
    (
        "adafactor",
        {"weight_decay": 0.1, "min_size_to_factor": 1, "relative": True},
        "Adafactor",
        {"weight_decay": 0.1, "eps": (1e-15, 1e-3)},
        0.1,
        1e-4,
    ),
    # Nesterov's step has other bias corrections in optax.
    (
        "muon",
        {"weight_decay": 0.1, "nesterov": False},
        "Muon",
        {"weight_decay": 0.1, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        0.1,
        1e-3,
    ),
    (
        "muon",
        {"nesterov": False, "update_rms": 0.0},
        "Muon",
        {"weight_decay": 0.0, "nesterov": False},
        0.1,
        1e-3,
    ),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer[0]}-{'-'.join(peer[1])}")
def test_the_updates_are_those_of_torch(peer, monkeypatch):
    torch = pytest.importorskip("torch")
    # Muon's iterations are in bfloat16 there, to be fast.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    name, options, kind, extra, peak, tolerance = peer
    shapes = {"w": (3, 4), "b": (4,)} if kind != "Muon" else {"w": (3, 4), "v": (5, 2)}
    start, gradients = problem(shapes)
    ours = moved(made(name, warm_up(peak), **options), start, gradients)

    # torch's matrices are [out, in].
    peers = {k: torch.tensor(v.T.copy(), requires_grad=True) for k, v in start.items()}
    theirs = getattr(torch.optim, kind)(peers.values(), lr=0.0, **extra)
    for step, gradient in enumerate(gradients):
        theirs.param_groups[0]["lr"] = peak * min(step / 5, 1)
        for k, peer in peers.items():
            peer.grad = torch.tensor(gradient[k].T.copy())
        if "grad_clip" in options:
            torch.nn.utils.clip_grad_norm_(peers.values(), options["grad_clip"])
        theirs.step()
    for k, peer in peers.items():
        np.testing.assert_allclose(ours[k], peer.detach().numpy().T, rtol=0, atol=tolerance * peak)


def test_lion_is_its_papers_algorithm():
    """Algorithm 2 of Chen et al. 2023, in float64."""
    start, gradients = problem({"w": (3, 4), "b": (4,)})
    ours = moved(made("lion", warm_up(0.1), weight_decay=0.2), start, gradients)
    for k, theta in start.items():
        m = np.zeros_like(theta)
        for step, g in enumerate(gradient[k] for gradient in gradients):
            rate = 0.1 * min(step / 5, 1)
            theta = theta - rate * (np.sign(0.9 * m + 0.1 * g) + 0.2 * theta)
            m = 0.99 * m + 0.01 * g
        np.testing.assert_allclose(ours[k], theta, rtol=0, atol=1e-5)


# Leaves of Muon's, as the house's networks have them.
LEAVES = {
    "conv_in/kernel": (3, 3, 1, 8),
    "down_0/conv/kernel": (3, 3, 8, 16),
    "down_0/conv/bias": (16,),
    "down_0/dense/kernel": (24, 8),
    "label_embedding/embedding": (11, 8),
    "pool/places": (1, 5, 8),
}
MATRICES = ("down_0/conv/kernel", "down_0/dense/kernel")


def test_muon_moves_matrices_along_orthogonal_ones_and_the_rest_by_adam():
    start, gradients = problem(LEAVES, steps=3)
    one = optax.constant_schedule(1.0)
    before, after = (moved(made("muon", one), start, gradients[:n]) for n in (2, 3))
    adam = moved(optax.adam(one), start, gradients)
    for name, shape in LEAVES.items():
        if name not in MATRICES:
            np.testing.assert_allclose(after[name], adam[name], rtol=1e-5, atol=1e-6)
            continue
        update = np.asarray(after[name] - before[name]).reshape(-1, shape[-1])
        values = np.linalg.svd(update / (0.2 * max(update.shape) ** 0.5), compute_uv=False)
        assert values.min() > 0.68, name  # the band of five iterations
        assert values.max() < 1.21, name


def test_muon_is_optaxs_where_its_rules_are_set_by_hand():
    start, gradients = problem(LEAVES, steps=5)
    dimensions = dict.fromkeys(LEAVES, None) | {
        "down_0/conv/kernel": contrib.MuonDimensionNumbers((0, 1, 2), (3,)),
        "down_0/dense/kernel": contrib.MuonDimensionNumbers((0,), (1,)),
    }
    theirs = contrib.muon(
        warm_up(0.1),
        weight_decay=0.1,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=0.2,
    )
    ours = moved(made("muon", warm_up(0.1), weight_decay=0.1), start, gradients)
    theirs = moved(theirs, start, gradients)
    for name in MATRICES:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


X = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
NETWORKS = {
    "unet": UNet(
        block_channels=(8,), num_blocks=1, attention_levels=(0,), num_groups=4, num_classes=3
    ),
    "dit": DiT(width=8, depth=1, num_heads=2, num_classes=3),
    "classifier": Classifier(
        block_channels=(8,), num_blocks=1, attention_levels=(0,), num_groups=4, head_dim=4
    ),
}
# The kernels that Adam moves.
ENDS = {
    "unet": {"conv_in/kernel", "conv_out/kernel"},
    "dit": {"patch_embedding/kernel", "out/kernel"},
    "classifier": {
        "conv_in/kernel",
        *(f"pool/{n}/kernel" for n in ("query", "key", "value", "out")),
    },
}


@pytest.mark.parametrize(
    ("network", "learned"), [*((name, False) for name in NETWORKS), ("unet", True), ("dit", True)]
)
@pytest.mark.wide(2)
def test_muon_moves_the_kernels_between_a_networks_ends(network, learned):
    module, ends = NETWORKS[network], ENDS[network]
    if learned:
        module, ends = WithSchedule(module), {f"network/{name}" for name in ends}
    params = jax.eval_shape(module.init, jax.random.key(0), X, jnp.zeros(1))["params"]
    state = jax.eval_shape(optimizers.muon(optax.constant_schedule(1.0)).init, params)
    kernels = {name for name in leaves.names(params) if name.endswith("/kernel")}
    assert set(leaves.names(optax.tree.get(state.inner_states["matrices"], "mu"))) == kernels - ends
    rest = set(leaves.names(params)) - (kernels - ends)
    assert set(leaves.names(optax.tree.get(state.inner_states["adam"], "nu"))) == rest


def test_a_clip_bounds_the_global_norm_and_keeps_the_direction():
    clip = made("adam", optax.constant_schedule(1.0), grad_clip=1.0)
    free = made("adam", optax.constant_schedule(1.0))
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    long = {"a": jnp.array([2.0, 3.0]), "b": jnp.array([6.0])}  # of norm 7
    unit = {"a": jnp.array([2.0, 3.0]) / 7, "b": jnp.array([6.0]) / 7}

    def moments(optimizer, gradient):
        opt_state = optimizer.update(gradient, optimizer.init(params), params)[1]
        return np.concatenate(list(optax.tree.get(opt_state, "mu").values()))

    np.testing.assert_allclose(moments(clip, long), moments(free, unit), rtol=1e-6)
    # What is short already is left alone.
    short = {"a": jnp.array([0.2, 0.3]), "b": jnp.array([0.6])}
    np.testing.assert_allclose(moments(clip, short), moments(free, short), rtol=1e-6)


# Leaves that are split over devices, and one that adafactor factors.
LARGE = {"w/kernel": (256, 128), "conv/kernel": (3, 3, 8, 256), "w/bias": (128,)}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.wide(3)
def test_a_step_on_eight_devices_is_that_on_one(name):
    start, (gradient,) = problem(LARGE, steps=1)
    optimizer = made(name, optax.constant_schedule(0.1))
    params, gradient = (
        {k: jnp.asarray(v, jnp.float32) for k, v in tree.items()} for tree in (start, gradient)
    )

    def step(params, gradient):
        updates, state = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates), state

    alone = jax.jit(step)(params, gradient)
    mesh = sharding.make_mesh(1, 8)
    places = sharding.state_sharding(mesh, jax.eval_shape(step, params, gradient))
    split = [jax.device_put(tree, places[0]) for tree in (params, gradient)]
    together = jax.jit(step, out_shardings=places)(*split)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(together[0]))
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [(), ("w/*",)])
@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_a_state_comes_back_from_its_checkpoint(tmp_path, name, frozen):
    """Nodes without leaves, and leaves of one element that stand for nothing."""
    start, gradients = problem(LARGE, steps=3)
    optimizer = made(name, warm_up(0.1))
    optimizer = freezing.optimizer(optimizer, frozen) if frozen else optimizer

    def moved_on(state, gradient):
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state)

    def init_params(_):
        return {k: jnp.asarray(v, jnp.float32) for k, v in start.items()}

    moved_on = jax.jit(moved_on)
    state = init_state(init_params, optimizer, 0)
    for gradient in gradients[:2]:
        state = moved_on(state, gradient)
    with Checkpoints(tmp_path) as saved:
        saved.save(2, state)
        saved.wait()
        back = saved.restore(2, jax.tree.map(lambda leaf: leaf, state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    straight, resumed = (moved_on(one, gradients[2]) for one in (state, back))
    assert digests(straight) == digests(resumed)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.wide(3)
def test_the_members_of_a_group_move_by_it(name):
    """Its numbers are arguments of the program; what no member has cannot be compared there."""
    decays = "weight_decay" in inspect.signature(OPTIMIZERS[name]).parameters
    optim = {"name": name, "decay": "wsd", "weight_decay": 0.1 if decays else 0.0}
    optim["frozen"] = ("block_0/mlp_0/*",)
    replicas.group_step(experiment.build(brief_config(optim=optim)), 2)
