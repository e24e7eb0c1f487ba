"""Convolution and pooling whose higher derivatives stay cheap under ``vmap`` over tasks."""
