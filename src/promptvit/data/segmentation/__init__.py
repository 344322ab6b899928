"""Images with a class for every pixel: data sets, masks, joint views and batches."""
