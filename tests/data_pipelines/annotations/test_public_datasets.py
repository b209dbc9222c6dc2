"""Every reader on a few entries in the original format, written for this test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations import msrvtt, tgif_qa
from data_pipelines.annotations.activitynet import Activitynet
from data_pipelines.annotations.activitynet_qa import ActivitynetQa
from data_pipelines.annotations.coco_captions import CocoCaptions
from data_pipelines.annotations.dataset import Annotations
from data_pipelines.annotations.didemo import Didemo
from data_pipelines.annotations.lsmdc import Lsmdc
from data_pipelines.annotations.msrvtt import Msrvtt
from data_pipelines.annotations.msrvtt_qa import MsrvttMc, MsrvttQa
from data_pipelines.annotations.msvd import Msvd
from data_pipelines.annotations.msvd_qa import MsvdQa
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.tgif_qa import TgifQa
from data_pipelines.annotations.visual_genome import VisualGenome
from data_pipelines.annotations.vqa import Vqa


def summary(annotations: Annotations) -> dict[tuple[str, str], int]:
    return {(kind.__name__, split): len(r) for (kind, split), r in annotations.records.items()}


def refused_unless_partial(dataset) -> str:
    with pytest.raises(UserError, match="--allow-partial") as error:
        dataclasses.replace(dataset, allow_partial=False).read()
    return str(error.value)


def videodatainfo(splits: dict[str, str]) -> dict:
    return {
        "info": {},
        "videos": [{"video_id": video, "split": split} for video, split in splits.items()],
        "sentences": [
            {"video_id": video, "sen_id": 10 * n + i, "caption": f"sentence {i} of {video}"}
            for n, video in enumerate(splits)
            for i in range(2)
        ],
    }


@pytest.fixture
def msrvtt_files(write):
    return {
        "videodatainfo": (
            write(
                "train_val.json", videodatainfo({"video0": "train", "video1": "train", "video2": "validate"})
            ),
            write("test.json", videodatainfo({"video8": "test", "video9": "test"})),
        ),
        "allow_partial": True,
    }


def test_msrvtt_full(msrvtt_files):
    dataset = Msrvtt(protocol="full", **msrvtt_files)
    read = dataset.read()
    assert summary(read) == {("Caption", "train"): 4, ("Caption", "validation"): 2, ("Caption", "test"): 4}
    first = Caption(id="0", video_id="video0", text="sentence 0 of video0")
    assert read.records[Caption, "train"][0] == first
    said = refused_unless_partial(dataset)
    assert "train split has 6,513 videos and 130,260 sentences" in said
    assert "train_val.json has 2 videos and 4 sentences" in said


def test_msrvtt_retrieval_protocols(msrvtt_files, write):
    test_csv = write("1k.csv", "key,vid_key,video_id,sentence\nret0,msr8,video8,somebody walks\n")
    train_csv = write("9k.csv", "video_id\nvideo0\nvideo2\nvideo9\n")
    read = Msrvtt(protocol="7k", test_csv=test_csv, **msrvtt_files).read()
    assert summary(read) == {("Caption", "train"): 6, ("Caption", "test"): 1}
    assert read.records[Caption, "test"] == [Caption(id="ret0", video_id="video8", text="somebody walks")]
    read = Msrvtt(protocol="9k", test_csv=test_csv, train_csv=train_csv, **msrvtt_files).read()
    assert {c.video_id for c in read.records[Caption, "train"]} == {"video0", "video2", "video9"}
    with pytest.raises(UserError, match="--protocol 9k needs --train-csv"):
        Msrvtt(protocol="9k", test_csv=test_csv, **msrvtt_files).read()
    with pytest.raises(UserError, match="--protocol 7k does not use --train-csv"):
        Msrvtt(protocol="7k", test_csv=test_csv, train_csv=train_csv, **msrvtt_files).read()
    no_training = write("no.json", videodatainfo({}))
    with pytest.raises(UserError, match=r"has no train videos; give train_val"):
        Msrvtt(protocol="7k", test_csv=test_csv, videodatainfo=(no_training,)).read()
    overlapping = write("9k.csv", "video_id\nvideo8\n")
    with pytest.raises(UserError, match="video 'video8' is in train and in test"):
        Msrvtt(protocol="9k", test_csv=test_csv, train_csv=overlapping, **msrvtt_files).read()


def test_published_counts_are_told(msrvtt_files, monkeypatch):
    counts = {"train": (2, 4), "validation": (1, 2), "test": (2, 4)}
    published = {split: {"videos": v, "sentences": s} for split, (v, s) in counts.items()}
    monkeypatch.setattr(msrvtt, "_PUBLISHED", published)
    read = Msrvtt(protocol="full", **msrvtt_files | {"allow_partial": False}).read()
    assert "test.json: 2 videos and 4 sentences, as published (test)" in read.facts


def test_a_file_given_twice_is_refused(msrvtt_files):
    msrvtt_files["videodatainfo"] *= 2
    with pytest.raises(UserError, match="Caption '0' occurs 2 times in train"):
        Msrvtt(protocol="full", **msrvtt_files).read()


def test_a_sentence_of_an_unknown_video_is_refused(write):
    whole = videodatainfo({"video0": "train"})
    whole["sentences"][1]["video_id"] = "video7"
    with pytest.raises(UserError, match=r"element 2 is about 'video7'"):
        Msrvtt(videodatainfo=(write("a.json", whole),), protocol="full", allow_partial=True).read()


def test_msrvtt_qa_as_released_and_as_clipbert_had_it(write):
    released = [
        {"answer": "cat", "category_id": 1, "id": 5, "question": "who sleeps?", "video_id": 3},
        {"answer": "cat", "category_id": 1, "id": 6, "question": "what is on it?", "video_id": 4},
        {"answer": "mat", "category_id": 1, "id": 7, "question": "what is under it?", "video_id": 4},
    ]
    lines = [{"answer": "mat", "question": "what?", "video_id": "video9", "answer_type": "what"}]
    train, test = write("train_qa.json", released), write("test.jsonl", lines)
    dataset = MsrvttQa(train=train, test=test, num_answers=1, allow_partial=True)
    read = dataset.read()
    assert read.records[OpenQuestion, "train"][0] == OpenQuestion(
        id="5", video_id="video3", question="who sleeps?", answer="cat", question_type="who"
    )
    assert read.records[OpenQuestion, "test"][0].video_id == "video9"
    assert read.answers == {OpenQuestion: ("cat",)}
    assert "MSRVTT-QA's train split has 158,581 questions" in refused_unless_partial(dataset)


def test_msrvtt_mc(write):
    line = {"qid": 0, "video": "video9.mp4", "options": list("abcde"), "answer": 3}
    other = {"qid": 1, "clip_name": "video8", "caption": list("vwxyz"), "answer": 0}
    dataset = MsrvttMc(test=write("mc.jsonl", [line, other]), allow_partial=True)
    records = dataset.read().records[MultipleChoice, "test"]
    assert [(r.id, r.video_id, r.answer_index) for r in records] == [("0", "video9", 3), ("1", "video8", 0)]
    assert "MSRVTT-MC has 2,990 questions" in refused_unless_partial(dataset)
    with pytest.raises(UserError, match="`answer` must be from 0 to 4, not 5"):
        MsrvttMc(test=write("mc.jsonl", [line | {"answer": 5}])).read()
    with pytest.raises(UserError, match="has 4 options"):
        MsrvttMc(test=write("mc.jsonl", [line | {"options": list("abcd")}])).read()


def test_didemo_joins_the_descriptions_of_a_video(write):
    entries = [
        {"video": "a@N01_1_ff.mov", "description": "it rains", "annotation_id": 1},
        {"video": "b@N01_2_ff.3gp", "description": "a dog", "annotation_id": 2},
        {"video": "a@N01_1_ff.mov", "description": "it stops", "annotation_id": 3},
    ]
    dataset = Didemo(validation=write("val_data.json", entries), allow_partial=True)
    read = dataset.read()
    assert [(c.video_id, c.text) for c in read.records[Caption, "validation"]] == [
        ("a@N01_1_ff", "it rains it stops"),
        ("b@N01_2_ff", "a dog"),
    ]
    assert read.file_stems["a@N01_1_ff"] == ("a@N01_1_ff.mov",)
    twice = [*entries, {"video": "a@N01_1_ff.mp4", "description": "it snows", "annotation_id": 4}]
    dotted = [*twice, {"video": "c@N01_3_ff.", "description": "a cat", "annotation_id": 5}]
    read = Didemo(validation=write("val_data.json", dotted), allow_partial=True).read()
    assert [(c.video_id, c.text) for c in read.records[Caption, "validation"]] == [
        ("a@N01_1_ff", "it rains it stops it snows"),
        ("b@N01_2_ff", "a dog"),
        ("c@N01_3_ff", "a cat"),
    ]
    assert read.file_stems["a@N01_1_ff"] == ("a@N01_1_ff.mov", "a@N01_1_ff.mp4")
    assert read.file_stems["c@N01_3_ff"] == ("c@N01_3_ff.", "c@N01_3_ff")
    dataset = Didemo(validation=write("val_data.json", entries), allow_partial=True)
    said = refused_unless_partial(dataset)
    assert "has 4,180 descriptions and 1,065 videos" in said
    assert "has 3 descriptions and 2 videos" in said
    with pytest.raises(UserError, match="annotation_id"):
        Didemo(validation=write("val_data.json", [*entries, entries[0]])).read()


def test_activitynet_joins_sentences_and_tests_on_val_1(write):
    train = write("train.json", {"v_a": {"sentences": ["One.", " ", " Two."]}})
    val = write("val_1.json", {"v_b": {"sentences": ["Three."]}})
    dataset = Activitynet(train=train, val_1=val, val_2=val, allow_partial=True)
    read = dataset.read()
    assert read.records[Caption, "train"] == [Caption(id="v_a", video_id="v_a", text="One. Two.")]
    assert summary(read) == {("Caption", s): 1 for s in ("train", "test", "validation")}
    assert read.file_stems["v_a"] == ("a",)
    assert "train has 10,009 videos" in refused_unless_partial(dataset)
    with pytest.raises(UserError, match="video 'v_b' is in train and in test"):
        Activitynet(train=val, val_1=val, allow_partial=True).read()
    with pytest.raises(UserError, match="`info` must be named v_"):
        Activitynet(train=write("other.json", {"info": {}})).read()


def test_activitynet_qa_brings_questions_and_answers_together(write):
    questions = [{"video_name": "a", "question": "is it so", "question_id": "v_a_1"}]
    answers = [{"answer": "yes", "type": 3, "question_id": "v_a_1"}]
    q, a = write("train_q.json", questions), write("train_a.json", answers)
    dataset = ActivitynetQa(train=(q, a), allow_partial=True)
    read = dataset.read()
    assert read.records[OpenQuestion, "train"] == [
        OpenQuestion(id="v_a_1", video_id="v_a", question="is it so", answer="yes", question_type="yes/no")
    ]
    assert read.file_stems == {"v_a": ("a",)}
    assert "32,000 questions and 3,200 videos" in refused_unless_partial(dataset)
    other = write("val_a.json", [answers[0] | {"question_id": "v_b_1"}])
    with pytest.raises(UserError, match=r"val_a.json has no answer to 'v_a_1'"):
        ActivitynetQa(train=(q, other)).read()
    more = write("val_a.json", [*answers, answers[0] | {"question_id": "v_b_1"}])
    with pytest.raises(UserError, match="give both files of one split"):
        ActivitynetQa(train=(q, more)).read()


def tgif_rows(header: str, rows: int, values: str) -> str:
    return "".join([header, *(f"gif_{i // 2}\twhy ?\t{values}\tID{i}\t{i}\n" for i in range(rows))])


CHOICE_HEADER = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
OPEN_HEADER = "gif_name\tquestion\tanswer\tvid_id\tkey\n"


def test_tgif_choices_and_the_validation_share(write):
    train = write("train.csv", tgif_rows(CHOICE_HEADER, 400, 'a\tb\t"c\td\te\t4'))
    dataset = TgifQa(task="action", train=train, allow_partial=True)
    read = dataset.read()
    split = {s: read.records[MultipleChoice, s] for s in ("train", "validation")}
    assert len(split["train"]) + len(split["validation"]) == 400
    assert 20 <= len(split["validation"]) <= 60
    assert not {r.video_id for r in split["train"]} & {r.video_id for r in split["validation"]}
    first = split["train"][0]
    assert (first.options, first.answer_index) == (("a", "b", '"c', "d", "e"), 4)
    assert "20,475 questions" in refused_unless_partial(dataset)
    whole = dataclasses.replace(dataset, validation_percent=0).read()
    assert summary(whole) == {("MultipleChoice", "train"): 400}


@pytest.mark.parametrize("count", [20_475, 20_471])
def test_tgif_action_has_the_rows_of_the_paper_or_of_the_file(count):
    fact = TgifQa(task="action").check(
        Path("train.csv"), "train", {"questions": count}, {"questions": (20_475, 20_471)}
    )
    assert fact == f"train.csv: {count:,} questions, as published"
    assert tgif_qa._PUBLISHED["action"]["train"] == (20_475, 20_471)


def test_tgif_count_and_frameqa(write):
    path = write("count.csv", tgif_rows(OPEN_HEADER, 2, "7"))
    read = TgifQa(task="count", test=path, allow_partial=True).read()
    assert read.records[Count, "test"][1] == Count(id="ID1", video_id="gif_0", question="why ?", count=7)
    header = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\n"
    path = write("frameqa.csv", tgif_rows(header, 4, "red\t2"))
    read = TgifQa(task="frameqa", train=path, validation_percent=0, allow_partial=True).read()
    assert read.records[OpenQuestion, "train"][0].question_type == "color"
    assert read.answers == {OpenQuestion: ("red",)}


@pytest.mark.parametrize(
    ("task", "text", "said"),
    [
        ("action", tgif_rows(OPEN_HEADER, 1, "7"), "lacks the columns a1, a2, a3, a4, a5"),
        ("count", tgif_rows(CHOICE_HEADER, 1, "a\tb\tc\td\te\t4"), "not a file of --task count"),
        ("action", tgif_rows(CHOICE_HEADER, 1, "a\tb\tc\td\te\t5"), "from 0 to 4, not 5"),
        ("count", tgif_rows(OPEN_HEADER, 1, "many"), "`answer` must be a whole number"),
        ("count", tgif_rows(OPEN_HEADER, 1, "7").replace("\t", ","), "separated by tabs"),
    ],
)
def test_tgif_refuses_other_files(write, task, text, said):
    with pytest.raises(UserError, match=said):
        TgifQa(task=task, test=write("test.csv", text), allow_partial=True).read()


def test_msvd(write):
    captions = write("captions.json", {"x_1_2": ["a cat", "the cat"], "y_3_4": ["a dog"], "z_0_1": ["?"]})
    dataset = Msvd(
        captions=captions, train=write("a.txt", "x_1_2\n"), test=write("b.txt", "y_3_4\n"), allow_partial=True
    )
    read = dataset.read()
    assert read.records[Caption, "train"][1] == Caption(id="x_1_2#1", video_id="x_1_2", text="the cat")
    assert summary(read) == {("Caption", "train"): 2, ("Caption", "test"): 1}
    assert "MSVD's train split has 1,200 clips" in refused_unless_partial(dataset)
    with pytest.raises(UserError, match="has no captions for 1 of the 1 clips"):
        Msvd(captions=captions, train=write("c.txt", "gone\n")).read()
    with pytest.raises(UserError, match="give --train, --validation or --test"):
        Msvd(captions=captions).read()


def test_msvd_qa_maps_names(write):
    path = write("train_qa.json", [{"answer": "man", "id": 3, "question": "who runs?", "video_id": 12}])
    mapping = write("youtube_mapping.txt", "x_1_2 vid12\n")
    plain = MsvdQa(train=path, allow_partial=True)
    assert plain.read().video_ids == ("vid12",)
    mapped = dataclasses.replace(plain, youtube_mapping=mapping).read()
    assert mapped.video_ids == ("x_1_2",)
    assert mapped.file_stems == {"x_1_2": ("vid12",)}
    assert "MSVD-QA's train split has 30,933 questions" in refused_unless_partial(plain)


def test_lsmdc(write):
    line = '1_Film_0.1-0.2\t0\t1\t0\t1\tSOMEONE "smiles.\n'
    dataset = Lsmdc(test=write("test.csv", line + line), allow_partial=True)
    captions = dataset.read().records[Caption, "test"]
    assert [c.id for c in captions] == ["1_Film_0.1-0.2", "1_Film_0.1-0.2_2"]
    assert {c.video_id for c in captions} == {"1_Film_0.1-0.2"}
    assert captions[0].text == 'SOMEONE "smiles.'
    assert "LSMDC's test split has 1,000 sentences" in refused_unless_partial(dataset)
    with pytest.raises(UserError, match="line 1 has 5 values for the 6 columns"):
        Lsmdc(test=write("test.csv", line.replace("\tSOMEONE", " SOMEONE"))).read()


def vqa_files(write, name: str, image: int, answers: list[str]) -> tuple:
    questions = [{"image_id": image, "question": "How many?", "question_id": image * 1000}]
    annotation = {
        "question_id": image * 1000,
        "question_type": "how many",
        "answer_type": "number",
        "multiple_choice_answer": answers[0],
        "answers": [{"answer": answer} for answer in answers],
    }
    return (
        write(f"{name}_q.json", {"data_subtype": name, "questions": questions}),
        write(f"{name}_a.json", {"annotations": [annotation]}),
    )


def test_vqa_scores_answers_and_keeps_ids(write):
    train = vqa_files(write, "train2014", 42, ["two"] * 3 + ["3"] * 7)
    test = write("t.json", {"questions": [{"image_id": 9, "question": "Why?", "question_id": 9001}]})
    genome = [{"id": 4, "qas": [
        {"image_id": 4, "qa_id": 1, "question": "How many?", "answer": "Two."},
        {"image_id": 4, "qa_id": 2, "question": "Where?", "answer": "Nowhere."},
    ]}]  # fmt: skip
    dataset = Vqa(
        train=train,
        test=test,
        visual_genome=write("vg.json", genome),
        min_occurrences=1,
        allow_partial=True,
    )
    read = dataset.read()
    first, extra = read.records[SoftQuestion, "train"]
    assert first == SoftQuestion(
        id="42000", video_id="coco_000000000042", question="How many?", answer_scores={"2": 0.9, "3": 1.0},
        question_type="how many", answer_type="number",
    )  # fmt: skip
    assert (extra.id, extra.video_id, extra.answer_scores) == ("vg_1", "vg_4", {"2": 1.0})
    assert read.answers == {SoftQuestion: ("2",)}
    (last,) = read.records[SoftQuestion, "test"]
    assert (last.id, last.answer_scores) == ("9001", {})
    assert "COCO_train2014_000000000042" in read.file_stems["coco_000000000042"]
    assert read.file_stems["vg_4"] == ("4",)
    assert "443,757 questions and 82,783 images" in refused_unless_partial(dataset)


def test_vqa_refuses_files_that_do_not_belong_together(write):
    train, validation = (vqa_files(write, n, i, ["x"] * 10) for n, i in (("train2014", 1), ("val2014", 2)))
    with pytest.raises(UserError, match="has no answers to question 1000"):
        Vqa(train=(train[0], validation[1]), allow_partial=True).read()
    with pytest.raises(UserError, match="is in train and in validation"):
        Vqa(train=train, validation=train, allow_partial=True).read()


def test_coco_and_visual_genome(write):
    annotations = {"annotations": [{"image_id": 17, "id": 5, "caption": " A  hat. "}]}
    dataset = CocoCaptions(train=write("captions_train2014.json", annotations), allow_partial=True)
    read = dataset.read()
    assert read.records[Caption, "train"] == [Caption(id="5", video_id="coco_000000000017", text="A hat.")]
    assert "COCO's train2014 has 414,113 captions" in refused_unless_partial(dataset)
    regions = [{"id": 1, "regions": [{"region_id": 7, "image_id": 1, "phrase": "a hat"}]}]
    genome = VisualGenome(regions=write("regions.json", regions), allow_partial=True)
    assert genome.read().records[Caption, "train"] == [Caption(id="7", video_id="vg_1", text="a hat")]
    assert "108,077 images" in refused_unless_partial(genome)


def test_no_files_at_all_are_refused():
    for dataset in (MsrvttQa(), Didemo(), TgifQa(task="count"), Vqa(), Lsmdc()):
        with pytest.raises(UserError, match="no annotation files are given"):
            dataset.read()
