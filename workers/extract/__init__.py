"""One pass over the images: everything a network says about them."""
