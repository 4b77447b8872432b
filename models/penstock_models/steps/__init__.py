"""Pre- and post-processing as data: the manifest's steps (`specs`) and what they do."""
