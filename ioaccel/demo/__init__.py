"""``ioaccel demo``: one small training job, reading first directly and then through ioaccel.

Nothing in here is imported by the rest of the package, but by the verbs ``demo`` and ``bench``; and torch,
matplotlib and Pillow only when they are needed, so that ``ioaccel --help`` does not wait for them.

``run``       the whole evening: stage, two training runs, figures, picture
``stage``     where the objects are: a real S3 server with photographs in it, or the user's own URL
``images``    the photographs
``caches``    a cache for as long as it lasts
``latency``   the distance to the store
``readers``   the one thing that differs between the two runs
``samples``   the data set: a URL becomes a tensor and a label
``train``     the model, the plain DataLoader, and the stopwatch
``report``    progress and figures in words
``picture``   figures as a chart
"""
