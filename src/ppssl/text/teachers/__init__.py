"""Teachers: frozen image-text models that embed images and descriptions."""
