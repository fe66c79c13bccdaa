"""What comes after pretraining: measuring, using and handing on an encoder."""
