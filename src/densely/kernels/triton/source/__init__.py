"""The kernels themselves, in Triton's language; channels last, one program a tile of pixels by channels.

Channel counts and row lengths come in units of an `ALIGN`, a power of two that divides them: the compiler may then load
as many numbers at once. Sums over all pixels leave a program as its own row of partial sums, never by atomics, so that
they are always added in the same order.
"""
