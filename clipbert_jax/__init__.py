"""ClipBERT in JAX: video-and-language models trained end to end from raw pixels.

The library takes arrays and gives arrays. It opens no video and knows no dataset: that is
`data_pipelines`. Commands and experiments are in `experiments`. Read `models/clipbert.py` first.
"""
