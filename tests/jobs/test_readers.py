"""Prompt files of every format say the same, and what is wrong with them is told by row."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import PromptFile, PromptFileError, RowProblem
from stable_async.jobs.readers import Format, Row
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path | str, **options: str) -> list[Row | RowProblem]:
    return list(PromptFile(str(path), **options).rows())  # type: ignore[arg-type]  # by test


def fields(path: Path | str, **options: str) -> list[dict[str, object]]:
    rows = read(path, **options)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.fields for row in rows if isinstance(row, Row)]


WANTED = [
    {"prompt": "a fox, red", "seed": "7"},
    {"prompt": 'the "old" café', "id": "c"},
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", 'prompt,seed,id\n"a fox, red",7,\n"the ""old"" café",,c\n'),
        ("p.csv", '\ufeffPrompt,Seed,ID\r\n"a fox, red",7,\r\n"the ""old"" café",,c\r\n'),
        ("p.tsv", 'Prompt\tseed\tid\na fox, red\t7\t\nthe "old" café\t\tc\n'),
        ("p.tsv", 'prompt\tseed\tid\na fox, red\t7\t\n"the ""old"" café"\t\tc\n'),
        (
            "p.jsonl",
            '{"prompt": "a fox, red", "seed": "7"}\n\n{"prompt": "the \\"old\\" café", "id": "c"}',
        ),
    ],
)
def test_formats_say_the_same(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    path = tmp_path / (name + (".gz" if packed else ""))
    data = text.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert fields(path) == WANTED


def test_parquet_rows_are_read_with_missing_values_left_out(tmp_path: Path) -> None:
    pyarrow = needs.module("pyarrow")
    parquet = needs.module("pyarrow.parquet")

    path = tmp_path / "p.parquet"
    table = pyarrow.table(
        {
            "Prompt": ["a", "b"],
            "seed": [7, None],
            "cfg_scale": [float("nan"), 4.5],
            "source": ["x", "y"],
            "score": [0.5, float("nan")],
        }
    )
    parquet.write_table(table, path)
    rows = read(path)
    assert rows == [
        Row(1, {"prompt": "a", "seed": 7}, {"source": "x", "score": 0.5}),
        Row(2, {"prompt": "b", "cfg_scale": 4.5}, {"source": "y"}),
    ]
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(PromptFileError, match="not valid parquet"):
        read(path)


def test_text_files_have_a_prompt_on_each_line_that_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a fox\n\n  a lighthouse \r\n")
    assert read(path) == [Row(1, {"prompt": "a fox"}), Row(3, {"prompt": "a lighthouse"})]


def test_columns_that_no_service_knows_are_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("Prompt\tCategory\tNote\twidth\nbond\tAbstract\t\t4\n")
    assert read(path) == [Row(2, {"prompt": "bond"}, {"Category": "Abstract", "source_width": "4"})]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_another_column_may_have_the_prompts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = {
        "p.csv": "caption,prompt\na fox,unused\n",
        "p.jsonl": '{"caption": "a fox", "metadata": {"prompt": "unused"}}\n',
    }
    path.write_text(rows[name])
    assert read(path, prompt_column="caption") == [
        Row(2 if name == "p.csv" else 1, {"prompt": "a fox"}, {"source_prompt": "unused"})
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,aspect_ration\na,1:1\n", "row 1: column 'aspect_ration'.*'aspect_ratio'"),
        ("prompt,Prompt\na,b\n", "row 1: two columns are 'prompt'"),
        ('prompt\n"a\nb\n', "row 2: not valid CSV"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(PromptFileError, match=told):
        read(path)


def test_a_column_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(PromptFileError, match=r"no column 'caption'; there are: a, b"):
        read(path, prompt_column="caption")


@pytest.mark.parametrize("format_", ["csv", "tsv"])
def test_more_cells_than_columns_are_told_by_row(tmp_path: Path, format_: Format) -> None:
    comma = {"csv": ",", "tsv": "\t"}[format_]
    path = tmp_path / f"p.{format_}"
    path.write_text(f"prompt\na\n\nb{comma}c\n")
    assert read(path)[1] == RowProblem(4, "2 cells under 1 columns")


def test_cells_may_have_line_breaks_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,seed\n"two\nlines",1\nnext,2\n')
    assert read(path) == [
        Row(2, {"prompt": "two\nlines", "seed": "1"}),
        Row(3, {"prompt": "next", "seed": "2"}),
    ]


def test_standard_input_is_json_lines_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(text: str) -> None:
        raw = io.BufferedReader(io.BytesIO(text.encode()))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw))

    give('{"prompt": "a"}\n')
    assert fields("-") == [{"prompt": "a"}]
    give("a fox\n")
    assert fields("-", format="txt") == [{"prompt": "a fox"}]


def test_a_file_is_known_by_its_name_or_must_be_told(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text("a\n")
    with pytest.raises(PromptFileError, match=r"\.jsonl, \.csv"):
        PromptFile(str(path))
    assert fields(path, format="txt") == [{"prompt": "a"}]
    with pytest.raises(PromptFileError, match="no such file"):
        PromptFile(str(tmp_path / "none.txt"))
    with pytest.raises(PromptFileError, match="is a folder"):
        PromptFile(str(tmp_path), format="txt")


def test_broken_gzip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress(b"a fox\n" * 1000)[:-20])
    with pytest.raises(PromptFileError, match="gzip"):
        read(path)


def test_a_line_without_end_is_refused_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"x" * 3_000_000)
    with pytest.raises(PromptFileError, match=r"row 1: longer than"):
        read(path)


@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "p.jsonl.gz"
    with gzip.open(path, "wt") if packed else path.open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"prompt": f"{number} {'x' * 100}"}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in PromptFile(str(path)).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000
