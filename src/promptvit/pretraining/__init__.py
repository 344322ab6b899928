"""Small backbones of one's own, pre-trained on drawn images."""
