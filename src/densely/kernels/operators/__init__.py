"""The engine on PyTorch's public operators: any device, any floating dtype, nothing to compile."""
