"""Prompt sets: published columns, large seeds, and one sentence with row and column for what cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate.prompt_set import (
    PromptRow,
    prompt_set,
    rows_of_csv,
    rows_of_lines,
    selected,
    with_guidance,
)
from support.odd_values import TEXTS, examples_of, outcome

I2P = """prompt,categories,hard,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model
"two, in a room","sexual, violence",1,4290749014,7,512,128,x
"quote "" here",hate,0,2147483648,7.5,512,512,x
"""
PAPER = "case_number,prompt,evaluation_seed,artist\n12,A street by Nobody,4325,Nobody\n"


def read(text, **more):
    return rows_of_csv(text.encode("utf-8"), "set.csv", **more)


def refused(text):
    with pytest.raises(EsdError) as error:
        read(text)
    return str(error.value)


class TestColumns:
    """What published sets call their columns."""

    def test_i2p(self):
        first, second = read(I2P)
        assert first == PromptRow("1", "two, in a room", "erased", "sexual, violence", 4290749014, 7.0, 512, 128, "", 1)
        assert (second.prompt, second.seed, second.guidance, second.case) == ('quote " here', 2**31, 7.5, "2")

    def test_the_paper_s(self):
        (row,) = read(PAPER, role="kept")
        assert row == PromptRow("12", "A street by Nobody", "kept", "Nobody", 4325)

    def test_an_attack_s_prompt_and_the_old_names_of_guidance(self):
        (row,) = read("adv_prompt,class,evaluation_guidance,group\nxyz church,church,3,Attack\n")
        assert (row.prompt, row.label, row.guidance, row.role) == ("xyz church", "church", 3.0, "attack")

    def test_our_own_names_count_before_the_others(self):
        (row,) = read("evaluation_seed,seed,prompt\n1,2,a\n")
        assert row.seed == 2

    def test_only_the_prompt_is_needed(self):
        (row,) = read("\ufeffPrompt \ncat\n")
        assert row == PromptRow("1", "cat", "erased", "cat")

    def test_windows_lines_and_lines_within_a_cell(self):
        rows = read('prompt,seed\r\n"a\r\nb",1\r\nc,2\r\n')
        assert [row.prompt for row in rows] == ["a\r\nb", "c"]

    @pytest.mark.parametrize("seed", [0, 2**31, 2**32 + 1, 2**53 + 1, 2**64 - 1])
    def test_seeds_stay_exact(self, seed):
        assert read(f"prompt,seed\ncat,{seed}\n")[0].seed == seed

    def test_a_seed_with_an_empty_fraction(self):
        assert [row.seed for row in read("prompt,seed\ncat,42.0\ndog,\n")] == [42, None]


class TestRefusals:
    """One sentence, with row and column."""

    @pytest.mark.parametrize(
        ("cell", "column", "words"),
        [
            ("abc", "seed", 'Row 2, column "seed" is "abc": write a whole number from 0 to 2^64 - 1.'),
            (str(2**64), "seed", 'Row 2, column "seed" is "18446744073709551616": write a whole number'),
            ("-1", "sd_seed", 'Row 2, column "sd_seed" is "-1": write a whole number'),
            ("1.5", "seed", 'Row 2, column "seed" is "1.5"'),
            ("\u0664", "seed", 'Row 2, column "seed"'),
            ("nan", "guidance", 'Row 2, column "guidance" is "nan": write a number from 0 to 100.'),
            ("513", "width", 'Row 2, column "width" is "513": write pixels from 16 to 16384 in steps of 8.'),
            ("0", "samples", 'Row 2, column "samples" is "0": write a whole number from 1 to 1000.'),
            ("maybe", "role", 'Row 2, column "role" is "maybe": write one of erased, kept, alternative'),
        ],
    )
    def test_a_cell(self, cell, column, words):
        assert refused(f"prompt,{column}\nok,\ncat,{cell}\n").startswith(words)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("text,seed\ncat,1\n", '"set.csv" has no column "prompt", only text, seed'),
            ("", '"set.csv" has no column "prompt", only none'),
            ("prompt\n", '"set.csv" has 0 rows below its header'),
            ("prompt,seed\n,1\n", 'Row 1, column "prompt" is empty'),
            ("prompt,seed\ncat, a pet,1\n", "Row 1 has more cells than the header"),
        ],
    )
    def test_a_file(self, text, words):
        assert refused(text).startswith(words)

    def test_no_utf_8(self):
        with pytest.raises(EsdError, match="is no UTF-8 text .byte 7.: save it as CSV UTF-8"):
            rows_of_csv(b"prompt\n\xff\n", "set.csv")

    def test_a_cell_beyond_what_the_reader_takes(self):
        assert "is no CSV file" in refused("prompt\n" + "x" * 200_000)

    @examples_of(80)
    @given(
        st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=4), st.sampled_from(("prompt", "prompt,seed", "x"))
    )
    def test_any_text_is_a_set_or_one_sentence(self, rows, header):
        text = "\n".join([header, *(",".join(row) for row in rows)])
        made = outcome(lambda: rows_of_csv(text.encode("utf-8", "replace"), "set.csv"))
        assert made is None or all(row.prompt and row.label for row in made)

    @examples_of(60)
    @given(st.binary(max_size=60))
    def test_any_bytes(self, data):
        made = outcome(lambda: rows_of_csv(b"prompt\n" + data, "set.csv"))
        assert made is None or all(row.prompt for row in made)


class TestLines:
    """Prompts typed into the node."""

    def test_labels_of_their_own(self):
        rows = rows_of_lines("cat\n\na photo of a cat -> cat \ncat", "erased")
        assert [(row.prompt, row.label, row.case) for row in rows] == [
            ("cat", "cat", "erased 1"),
            ("a photo of a cat", "cat", "erased 2"),
            ("cat", "cat", "erased 3"),
        ]

    @pytest.mark.parametrize("line", ["-> cat", "cat ->", "->"])
    def test_half_a_line(self, line):
        with pytest.raises(EsdError, match="lacks its prompt or its label"):
            rows_of_lines(line, "erased")

    @examples_of(60)
    @given(TEXTS)
    def test_any_text_is_rows_or_one_sentence(self, text):
        made = outcome(lambda: rows_of_lines(text, "kept"))
        assert made is None or all(row.prompt and row.label and row.role == "kept" for row in made)

    def test_half_a_character(self):
        with pytest.raises(EsdError, match="The kept prompt 1 holds half of a character"):
            rows_of_lines("\ud800", "kept")


class TestSets:
    """Rows put together."""

    def test_alternatives_are_answers_and_are_not_drawn(self):
        made = prompt_set("s", [*rows_of_lines("cat", "erased"), *rows_of_lines("dog\nfox", "alternative")])
        assert [row.prompt for row in made.drawn] == ["cat"] and made.labels == ("cat", "dog", "fox")

    def test_nothing_to_draw(self):
        with pytest.raises(EsdError, match="nothing to draw"):
            prompt_set("s", rows_of_lines("dog", "alternative"))

    def test_filters(self):
        rows = read(I2P)
        assert [row.case for row in selected(rows, "VIOL")] == ["1"] and len(selected(rows, first=1)) == 1
        assert [row.guidance for row in with_guidance(rows, False)] == [None, None]
        assert with_guidance(rows, True) == rows
        with pytest.raises(EsdError, match='No row has a label with "zebra"'):
            selected(rows, "zebra")
