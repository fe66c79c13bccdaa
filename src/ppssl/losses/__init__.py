"""The terms of the loss: the contrastive objective, and the loss plugins AIS and IADM."""
