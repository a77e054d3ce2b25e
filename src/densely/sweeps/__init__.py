"""Sweeps: many trainings with other settings each, to find good ones on held-out training images.

    runs/photos-sweep-1/
        space.toml            what was tried (`space`)
        asked.json            the same with the data, seed and pruner: the same again goes on in this folder
        sweep.db              the trials, in SQLite, as Optuna keeps them (`study`)
        trial-0000/ …         a run folder each (`trial`)
        best.toml             the config of the best one, as `densely train --config` takes it
        sweep.html            all of it on a page, with its figures in figures/ (`densely.report.sweep_page`)

The test part is not looked at: every trial is trained with `tune`, which scores a part of the training images.
"""
