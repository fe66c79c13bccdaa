"""Background swap: salient parts of images on the backgrounds of others (:ref:`D20 <d20>`)."""
