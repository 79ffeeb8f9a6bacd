"""The two programs, `sample.py` and `train.py`, as the installed package has them: links to the files beside it."""
