"""Probing: where a trained model looks, and how its score changes without parts of its input.

Notebooks, `clipbert probe` and `make pointing` call it, for one video at a time:

    ModelProbe(model, score)   runs the model, with its attention or with parts hidden
    attention_maps             word to picture, picture to word, rollout; pure NumPy
    evidence                   the score of each clip alone, and of the others without it
    ablation                   the change of the score without words, cells, frames or heads
    faithfulness               whether a map agrees with ablation
    pointing_game              whether a map falls on the object that a word names, compared with chance
    linear_probes              what can be read off hidden states, layer by layer

Attention shows where a model looks. Only ablation can tell whether the model uses what it sees there;
`faithfulness` measures how far the two agree.
"""
