"""The network of tests in which any will do: two dense layers.

Of a training in a test most is building layers, and writing and reading them.
"""

from densely.architecture import spec

SMALL = spec("densenet-bc-16-8", depth=8, blocks=2)
