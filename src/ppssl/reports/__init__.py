"""The page of ``ppssl report``: one file that shows a run, or two side by side."""
