"""The checks of ``ppssl doctor``, and the repetition of a step whose loss was not finite."""
