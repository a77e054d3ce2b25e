"""One training by several processes: data parallel, over `torch.distributed`.

Every process makes the same network and the same order of images, computes its part of every batch, and adds its
gradients to those of the others while the backward pass runs. After every step all of them hold the same weights,
momenta, moving statistics and running scores, bit by bit; so the first one writes the run folder, and any number of
processes can go on from its checkpoints.

    place.py       which of how many processes this is, from the variables that torchrun sets
    peers.py       whether the others are still there, and who tells what happened if not
    world.py       what the training asks: parts, agreement on signals, the same beginning for all
    replica.py     the model of one process: its part of a step
    gradients.py   sums while the backward pass runs
    launcher.py    `--devices N`: the processes of this machine
"""
