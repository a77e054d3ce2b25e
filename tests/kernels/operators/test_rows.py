"""Elementwise work on rows, against the same written out."""

import pytest
import torch

from densely.kernels.memory import Scratch
from densely.kernels.operators.rows import Affine, cast, drop

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CPU = torch.device("cpu")


def some(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def affine(dtype: torch.dtype, finite: bool = True) -> tuple[Affine, torch.Tensor, torch.Tensor]:
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    scale, shift = torch.tensor([1.5, -0.5, 2.0, 0.0], dtype=sums), torch.tensor([0.25, 0.5, -1.0, 1.0], dtype=sums)
    return Affine(scale, shift, dtype, finite), scale, shift


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_relu_and_its_mask(dtype, finite, strided):
    do, scale, shift = affine(dtype, finite)
    wide = some(30, 7, dtype=dtype)
    rows = wide[:, 1:5] if strided else wide[:, 1:5].contiguous()
    before, scratch = rows.clone(), Scratch(120, dtype, CPU)
    expected = (rows.to(scale.dtype) * scale + shift).relu().to(dtype)
    found = do.relu(rows, scratch)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous() and torch.equal(rows, before)
    if dtype.itemsize > 2:
        assert found.data_ptr() == scratch.flat.data_ptr()
    else:
        assert do.on_bits == finite  # by integers where nothing can be a NaN
    kept = found > 0
    for sums in (dtype, scale.dtype):
        gradient = some(30, 4, dtype=dtype) - 1
        expected, out = gradient.where(kept, gradient * 0).to(sums), torch.full((30, 4), 7.0, dtype=sums)
        do.mask(gradient, found.clone(), gradient if sums == dtype else out)
        assert torch.equal(gradient if sums == dtype else out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_in_a_row_stays_one(dtype):
    rows = some(5, 4, dtype=dtype)
    rows[2, 1] = torch.nan
    found = affine(dtype, finite=False)[0].relu(rows, Scratch(20, dtype, CPU))
    assert found.isnan().nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("broken", ["scale", "shift"])
def test_a_nan_in_the_statistics_stays_one(broken):
    numbers = {"scale": torch.ones(4), "shift": torch.zeros(4)}
    numbers[broken][3] = torch.nan
    do = Affine(**numbers, dtype=torch.bfloat16, finite_if_scale_is=True)
    assert not do.on_bits and do.relu(torch.ones(5, 4).bfloat16(), Scratch(20, torch.bfloat16, CPU))[:, 3].isnan().all()


def test_infinities_that_cancel_out_are_seen():
    do = Affine(torch.tensor([torch.inf]), torch.tensor([-torch.inf]), torch.bfloat16, True)
    assert not do.on_bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scratch", [True, False])
def test_drop(dtype, scratch):
    rows, mask = some(9, 4, dtype=dtype), (torch.arange(36).view(9, 4) % 3 > 0).to(torch.int8)
    expected = rows.where(mask.bool(), rows * 0)
    room = Scratch(36, dtype, CPU) if scratch else None
    if room is not None:
        room.flat.fill_(9)
    drop(rows, mask, room)
    assert torch.equal(rows, expected)
    if room is not None and dtype.itemsize > 2:
        assert torch.equal(room.flat.view(9, 4), mask.to(dtype))


def test_cast():
    rows = some(9, 4, dtype=torch.float32)
    assert cast(rows, Scratch(36, torch.float32, CPU)) is rows
    narrow = cast(rows, room := Scratch(36, torch.bfloat16, CPU))
    assert torch.equal(narrow, rows.bfloat16()) and narrow.data_ptr() == room.flat.data_ptr()
