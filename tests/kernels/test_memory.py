"""Reused memory must never be anybody else's."""

import gc

import torch

from densely.kernels import memory, release_memory
from densely.kernels.memory import Shelf


def test_a_block_comes_back_when_its_last_tensor_dies():
    shelf = Shelf()
    tensor = shelf.take(1000)
    address, view = tensor.data_ptr(), tensor[10:20].view(2, 5)
    assert address % 64 == 0
    del tensor
    gc.collect()
    assert shelf.idle_bytes() == 0
    assert shelf.take(1000).data_ptr() != address  # a view still lives
    del view
    assert shelf.idle_bytes() >= 2000
    assert address in {shelf.take(1000).data_ptr(), shelf.take(990).data_ptr()}


def test_autograd_and_users_keep_what_they_hold():
    first = memory.empty((1 << 20,), torch.float32, torch.device("cpu")).fill_(1.0)
    leaf = torch.ones(1 << 20, requires_grad=True)
    product = leaf * first  # the graph holds `first`
    del first
    second = memory.empty((1 << 20,), torch.float32, torch.device("cpu")).fill_(2.0)
    product.sum().backward()
    assert torch.equal(leaf.grad, torch.ones(1 << 20))
    assert second[0] == 2.0


def test_the_shelf_is_bounded():
    shelf = Shelf(limit=3000)
    tensors = [shelf.take(1000) for _ in range(10)]
    del tensors
    assert shelf.idle_bytes() <= 3000
    shelf.clear()
    assert shelf.idle_bytes() == 0


def test_a_much_larger_block_is_not_wasted_on_a_small_tensor():
    shelf = Shelf()
    del_me = shelf.take(10_000)
    del del_me
    small = shelf.take(1000)
    assert small.untyped_storage().nbytes() == 1000
    assert shelf.idle_bytes() >= 10_000


def test_release_memory():
    keep = memory.empty((1 << 20,), torch.float32, torch.device("cpu")).fill_(3.0)
    release_memory()
    assert keep[-1] == 3.0
