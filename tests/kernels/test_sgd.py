"""A step of SGD for many tensors at once, by the compiled loops and by operators, against the formula in float64."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from densely.kernels import native
from densely.kernels.native import library
from densely.kernels.native.block import draw_bits
from densely.kernels.sgd import update

sizes = st.lists(st.sampled_from([(), (1,), (7,), (16, 3), (3, 3, 12, 5), (4096,), (64, 65)]), min_size=1, max_size=5)


@pytest.fixture(params=["native", "operators"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "operators":
        monkeypatch.setenv("DENSELY_NATIVE", "0")
    elif library.why_not(torch.float32) is not None:
        pytest.skip(f"no compiled loops: {library.why_not(torch.float32)}")
    else:
        draw_bits(8, 0.5, None, None)  # loops that nobody has called are not compiled for this
    assert native.takes([torch.ones(3)]) == (request.param == "native")
    return str(request.param)


@given(
    sizes, st.sampled_from([0.0, 0.1, 3.0]), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 1e-2]), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(3, 4)], 0.1, 0.9, 1e-2, True, 0)
def test_it_is_the_formula(engine, shapes, rate, momentum, decay, nesterov, seed):
    torch.manual_seed(seed)
    weights, gradients, velocity = ([torch.randn(s) for s in shapes] for _ in range(3))
    given = [g.clone() for g in gradients]
    exact = []
    for w, g, v in zip(weights, gradients, velocity, strict=True):
        w, g, v = w.double(), g.double(), v.double() if momentum else 0
        step = -rate * (g + decay * w)
        v = momentum * v + step
        exact.append((w + (momentum * v + step if nesterov and momentum else v), v))
    options = {"rate": rate, "momentum": momentum, "decay": decay, "nesterov": nesterov}
    update(weights, gradients, velocity if momentum else None, **options)
    for w, v, g, was, (right_w, right_v) in zip(weights, velocity, gradients, given, exact, strict=True):
        torch.testing.assert_close(w.double(), right_w, rtol=1e-6, atol=3e-6)
        if momentum:
            torch.testing.assert_close(v.double(), right_v, rtol=1e-6, atol=3e-6)
        assert torch.equal(g, was)


def test_the_loops_do_it_where_they_can(engine, monkeypatch):
    asked = []
    monkeypatch.setattr(native, "sgd", lambda *given: asked.append(given))
    update([torch.ones(3)], [torch.ones(3)], [torch.zeros(3)], rate=0.1, momentum=0.9)
    assert len(asked) == (engine == "native")


@pytest.mark.parametrize(
    ("weight", "gradient"),
    [
        (torch.ones(6, 4).T, torch.ones(4, 6)),
        (torch.ones(4, 6), torch.ones(6, 4).T),
        (torch.ones(4, 6), torch.ones(1).expand(4, 6)),
        (torch.ones(4, 6), torch.tensor(1.0)),
        (torch.ones(4, 6, dtype=torch.float64), torch.ones(4, 6, dtype=torch.float64)),
        (torch.ones(4, 6, dtype=torch.bfloat16), torch.ones(4, 6, dtype=torch.bfloat16)),
    ],
    ids=["weights turned", "gradient turned", "gradient spread", "gradient of one number", "float64", "bfloat16"],
)
def test_what_the_loops_cannot_take_the_operators_move(engine, weight, gradient):
    weight = weight.clone(memory_format=torch.preserve_format)
    update([weight], [gradient], None, rate=0.5)
    assert torch.equal(weight, torch.full_like(weight, 0.5))


def test_gradients_of_another_shape_are_refused(engine):
    with pytest.raises(RuntimeError, match="size"):
        update([torch.ones(4, 3)], [torch.ones(3, 4)], None, rate=0.5)


def test_a_step_between_forward_and_backward_is_noticed(engine):
    weight, velocity = torch.ones(3, requires_grad=True), torch.zeros(3)
    loss = (weight * weight).sum() + (weight * velocity).sum()
    update([weight], [torch.ones(3)], [velocity], rate=0.5, momentum=0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
