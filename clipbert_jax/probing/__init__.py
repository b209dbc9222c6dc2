"""Probing: what a trained model looks at, and what it does without it.

Beside evaluation, for one video at a time. Plain arrays go in and come out:

    ModelProbe(model, score)    runs the model, with its attention, or with parts hidden
    attention_maps              word -> picture, picture -> word, rollout; pure NumPy
    evidence                    what each clip says, and what the others say without it
    ablation                    words, cells, frames, heads taken away: what the score loses
    faithfulness                whether a map agrees with ablation, so is evidence at all
    pointing_game               whether a map falls on the object that a word names, against chance
    linear_probes               what can be read off hidden states, layer by layer

Attention shows where a model looks. Whether it uses what it sees there is another question, which only
taking it away answers; `faithfulness` says how far the two go together.
"""
