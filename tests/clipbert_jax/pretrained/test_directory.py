"""The vocabulary of a run or model directory is written whole, and once."""

from pathlib import Path

import pytest

from clipbert_jax.pretrained.directory import ANSWERS, TOKENIZER, VOCAB, Vocabulary
from clipbert_jax.tokenizer_files import LetterRules

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "ein", "été")


def test_a_vocabulary_that_is_there_is_not_written_again(tmp_path):
    """Another program may be reading it, and a kill in the middle would leave half."""
    vocabulary = Vocabulary(tokens=WORDS, letter_rules=LetterRules(is_lower_case=False), answers=("yes",))
    vocabulary.write(tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert {path.name for path in before} == {VOCAB, TOKENIZER, ANSWERS}
    vocabulary.write(tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == before
    Vocabulary(tokens=WORDS, letter_rules=LetterRules(is_lower_case=False), answers=("yes", "no")).write(
        tmp_path
    )
    changed = [path.name for path, inode in before.items() if path.stat().st_ino != inode]
    assert changed == [ANSWERS]
    assert Vocabulary.read(tmp_path).answers == ("yes", "no")


def test_a_kill_while_a_vocabulary_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    old = Vocabulary(tokens=WORDS, letter_rules=LetterRules(is_lower_case=False))
    old.write(tmp_path)

    def killed(path, data):
        path.open("wb").close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", killed)
        patched.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            Vocabulary(tokens=(*WORDS, "more"), letter_rules=LetterRules(is_lower_case=False)).write(tmp_path)
    assert Vocabulary.read(tmp_path) == old
