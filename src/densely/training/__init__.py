"""Training: from data and a recipe to a run folder.

A training is prepared (`parts`: its images; `preparation`: recipe, network, optimizer), run (`single`, step by step
under the `conductor`) and perhaps repeated (`repeats`); `finder` looks for a learning rate first. One that was broken
off goes on (`resume`). The other modules are what a training is made of: `batches`, `losses`, `optimizers`,
`averaging`, `precision` and so on.
"""
