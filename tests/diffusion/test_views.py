"""Self-distillation between views, against torch's cross-entropy of DINO's algorithm 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.losses import views
from ddpm_jax.training.objectives.views import rotation, self_distillation, view

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)
STUDENT = RNG.standard_normal((2, 6, 5)).astype(np.float32)
TEACHER = RNG.standard_normal((2, 6, 5)).astype(np.float32)
CENTRE = RNG.standard_normal(5).astype(np.float32)


def of_torch(student, teacher, centre):
    """The official code's loss and its gradient, with temperatures of 0.1 and 0.04."""
    student = torch.tensor(student, requires_grad=True)
    wanted = torch.softmax((torch.tensor(teacher) - torch.tensor(centre)) / 0.04, dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(student[v] / 0.1, wanted[w], reduction="none")
        for w in range(2)
        for v in range(2)
        if v != w
    ]
    loss = torch.stack(losses).mean(0)
    loss.sum().backward()
    return loss.detach().numpy(), student.grad.numpy()


def test_the_loss_and_its_gradient_are_torchs():
    def loss(student, teacher):
        return views.self_distillation(student, teacher, jnp.asarray(CENTRE))

    expected, gradient = of_torch(STUDENT, TEACHER, CENTRE)
    np.testing.assert_allclose(loss(STUDENT, TEACHER), expected, rtol=1e-5)
    of_student, of_teacher = jax.grad(lambda *x: loss(*x).sum(), (0, 1))(STUDENT, TEACHER)
    np.testing.assert_allclose(of_student, gradient, rtol=1e-4, atol=1e-5)
    assert not np.any(of_teacher)


def test_the_centre_converges_to_the_mean_and_takes_it_out():
    centre = jnp.zeros(5)
    for _ in range(200):
        centre = views.moved_centre(centre, TEACHER, 0.9)
    np.testing.assert_allclose(centre, TEACHER.reshape(-1, 5).mean(0), atol=1e-6)
    # A teacher that says the same of all, once centred, says nothing: each score is as likely.
    same = np.broadcast_to(CENTRE, TEACHER.shape)
    loss = views.self_distillation(STUDENT * 0, same, jnp.asarray(CENTRE))
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


def test_the_teacher_is_the_average_and_sees_the_other_view():
    def scores(params, images):
        return images.reshape(len(images), -1) @ params

    params, ema = RNG.standard_normal((2, 12, 5)).astype(np.float32)
    batch = {"x0": RNG.standard_normal((6, 2, 2, 3)).astype(np.float32)}
    objective = self_distillation(scores, 5)
    assert objective.needs == ("ema",)
    extra = {"centre": jnp.asarray(CENTRE)}
    key = jax.random.key(3)
    said = objective(params, batch, key, True, extra, ema=ema)
    shown = [
        np.asarray(view(one, batch["x0"], jnp.arange(6), 0.4, 0.2)) for one in jax.random.split(key)
    ]
    student, teacher = (np.stack([scores(p, x) for x in shown]) for p in (params, ema))
    np.testing.assert_allclose(said.loss, of_torch(student, teacher, CENTRE)[0], rtol=1e-4)
    moved = 0.9 * CENTRE + 0.1 * teacher.reshape(-1, 5).mean(0)
    np.testing.assert_allclose(said.extra["centre"], moved, rtol=1e-4, atol=1e-5)


def test_a_view_is_a_crop_of_its_own_image():
    rows = np.linspace(0, 1, 32, dtype=np.float32)
    image = np.broadcast_to(rows[:, None, None], (32, 32, 1))
    whole = view(jax.random.key(0), image[None], jnp.arange(1), 1.0, 0.0)
    np.testing.assert_allclose(whole[0], image, atol=1e-6)
    seen = view(jax.random.key(0), np.stack([image] * 64), jnp.arange(64), 0.25, 0.0)
    # Of a ramp, a crop of side r is a ramp whose slope is r of the whole one's.
    slopes = np.diff(np.asarray(seen)[:, 8:24, 16, 0], axis=1).mean(axis=1) * 31
    assert 0.5 <= slopes.min() < 0.6
    assert 0.9 < slopes.max() <= 1.0
    again = view(jax.random.key(0), image[None], jnp.asarray([7]), 0.25, 0.0)
    np.testing.assert_allclose(again[0], seen[7], atol=1e-6)


def test_an_image_is_read_by_how_it_was_turned():
    image = RNG.standard_normal((4, 4, 1)).astype(np.float32)
    every = np.stack([np.rot90(image, k) for k in range(4)])

    def scores(params, images):
        """Certain of the turn that it knows."""
        far = ((images[:, None] - every[None]) ** 2).sum(axis=(2, 3, 4))
        return -params * far

    batch = {"x0": np.stack([image] * 64)}
    outcome = rotation(scores)(100.0, batch, jax.random.key(0), True, {})
    np.testing.assert_allclose(outcome.loss, 0, atol=1e-5)
    blind = rotation(scores)(0.0, batch, jax.random.key(0), True, {})
    np.testing.assert_allclose(blind.loss, np.log(4), rtol=1e-6)
