"""Prompt files of every format read alike, and problems are reported by row."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import PromptFile, PromptFileError, PromptRules, RowProblem
from stable_async.jobs.columns import ColumnRules
from stable_async.jobs.estimate import estimate_run
from stable_async.jobs.row import Row
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs.prompt_file import Format


def read(
    path: Path | str, rules: ColumnRules | None = None, *, format_: Format | None = None
) -> list[Row | RowProblem]:
    return list(PromptFile(str(path), format=format_, rules=rules).rows())


def fields(path: Path | str, *, format_: Format | None = None) -> list[dict[str, object]]:
    rows = read(path, format_=format_)
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
        (
            "p.jsonl",
            (
                '{"prompt": "a fox, red", "seed": "7", "id": ""}\n'
                '{"prompt": "the \\"old\\" café", "seed": null, "negative_prompt": "", "id": "c"}'
            ),
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
    rows = read(path, rules=ColumnRules(service="sd3"))
    assert rows == [
        Row(1, {"prompt": "a", "seed": 7}, {"source": "x", "score": 0.5}),
        Row(2, {"prompt": "b", "cfg_scale": 4.5}, {"source": "y"}),
    ]
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(PromptFileError, match="not valid parquet"):
        read(path)


def test_messages_have_no_control_characters_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('"pro\x1b[31m\tmpt\nx"\na fox\n')
    with pytest.raises(PromptFileError, match=r"the columns are: pro \[31m mpt x") as caught:
        read(path)
    assert str(caught.value).isprintable()


def test_text_files_have_a_prompt_on_each_line_that_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a fox\n\n  a lighthouse \r\n")
    assert read(path) == [Row(1, {"prompt": "a fox"}), Row(3, {"prompt": "a lighthouse"})]


def test_columns_that_no_service_knows_are_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("Prompt\tCategory\tNote\twidth\nbond\tAbstract\t\t4\n")
    assert read(path, rules=ColumnRules(keep=["Width"])) == [
        Row(2, {"prompt": "bond"}, {"Category": "Abstract", "source_width": "4"})
    ]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_another_column_may_have_the_prompts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = {
        "p.csv": "caption,prompt\na fox,unused\n",
        "p.jsonl": '{"caption": "a fox", "metadata": {"prompt": "unused"}}\n',
    }
    path.write_text(rows[name])
    assert read(path, rules=ColumnRules(prompt_column="Caption")) == [
        Row(2 if name == "p.csv" else 1, {"prompt": "a fox"}, {"source_prompt": "unused"})
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "prompt,aspect_ration\na,1:1\n",
            "looks like a parameter.*aspect_ration \\(aspect_ratio\\?\\)",
        ),
        ("prompt,Prompt\na,b\n", "row 1: two columns are named 'prompt'"),
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
    with pytest.raises(PromptFileError, match=r"no column 'Caption'; the columns are: a, b"):
        read(path, rules=ColumnRules(prompt_column="Caption"))


@pytest.mark.parametrize("format_", ["csv", "tsv"])
def test_more_cells_than_columns_are_told_by_row(tmp_path: Path, format_: Format) -> None:
    comma = {"csv": ",", "tsv": "\t"}[format_]
    path = tmp_path / f"p.{format_}"
    path.write_text(f"prompt\na\n\nb{comma}c\n")
    assert read(path)[1] == RowProblem(4, "2 cells under 1 column")


def test_cells_may_have_line_breaks_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,seed\n"two\nlines",1\nnext,2\n')
    assert read(path) == [
        Row(2, {"prompt": "two\nlines", "seed": "1"}),
        Row(3, {"prompt": "next", "seed": "2"}),
    ]


def test_standard_input_is_json_lines_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(text: str, format_: Format | None = None) -> list[dict[str, object]]:
        reader, writer = os.pipe()
        os.write(writer, text.encode())
        os.close(writer)
        with os.fdopen(reader) as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            return fields("-", format_=format_)

    assert given('{"prompt": "a"}\n') == [{"prompt": "a"}]
    assert given("a fox\n", format_="txt") == [{"prompt": "a fox"}]
    with pytest.raises(
        PromptFileError, match=r"begins with 'prompt,seed', and is read as JSON Lines: .*--format"
    ):
        given("\nprompt,seed\na fox,7\n")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(PromptFileError, match="standard input: is closed"):
        PromptFile("-")


def test_pipes_are_read_as_standard_input_is(tmp_path: Path) -> None:
    def piped(text: str, name: str, format_: Format | None = None) -> list[dict[str, object]]:
        path = tmp_path / name
        os.mkfifo(path)
        descriptor = os.open(path, os.O_RDWR)  # so that nobody waits for the other end
        os.write(descriptor, text.encode())
        rows = PromptFile(str(path), format=format_).rows()
        first = next(rows)
        os.close(descriptor)
        return [row.fields for row in (first, *rows) if isinstance(row, Row)]

    assert piped('{"prompt": "a"}\n{"prompt": "b"}\n', "pipe") == [{"prompt": "a"}, {"prompt": "b"}]
    assert piped("prompt\na\n", "pipe.csv") == [{"prompt": "a"}]
    assert piped("a fox\n", "named", format_="txt") == [{"prompt": "a fox"}]
    assert read("/dev/null") == []
    os.mkfifo(tmp_path / "p.parquet")
    with pytest.raises(PromptFileError, match="from a pipe"):
        PromptFile(str(tmp_path / "p.parquet"))


def test_a_file_is_known_by_its_name_or_must_be_told(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text("a\n")
    with pytest.raises(PromptFileError, match=r"\.jsonl, \.json, \.csv"):
        PromptFile(str(path))
    assert fields(path, format_="txt") == [{"prompt": "a"}]
    with pytest.raises(PromptFileError, match="no such file"):
        PromptFile(str(tmp_path / "none.txt"))


def test_broken_gzip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress(b"a fox\n" * 1000)[:-20])
    with pytest.raises(PromptFileError, match="gzip"):
        read(path)


@pytest.mark.parametrize("place", [30, 100])
def test_damaged_gzip_is_told(tmp_path: Path, place: int) -> None:
    path = tmp_path / "p.txt.gz"
    data = bytearray(gzip.compress("".join(f"a fox {n * n}\n" for n in range(9999)).encode()))
    data[place : place + 8] = bytes(255 - byte for byte in data[place : place + 8])
    path.write_bytes(data)
    with pytest.raises(PromptFileError, match="gzip data is broken"):
        read(path)


def test_damaged_parquet_is_told(tmp_path: Path) -> None:
    pyarrow = needs.module("pyarrow")
    parquet = needs.module("pyarrow.parquet")

    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"prompt": [f"a fox {n * n}" for n in range(9999)]}), path)
    data = bytearray(path.read_bytes())
    data[200:1000] = b"\xff" * 800
    path.write_bytes(data)
    with pytest.raises(PromptFileError, match=r"p\.parquet: "):
        read(path)


@pytest.mark.parametrize("type_", ["date64", "duration", "timestamp"])
def test_values_that_python_lacks_are_told(tmp_path: Path, type_: str) -> None:
    pyarrow = needs.module("pyarrow")
    parquet = needs.module("pyarrow.parquet")

    kind = pyarrow.date64() if type_ == "date64" else getattr(pyarrow, type_)("ms")
    path = tmp_path / "p.parquet"
    when = pyarrow.array([2**62 // 86_400_000 * 86_400_000], pyarrow.int64()).cast(kind)
    parquet.write_table(pyarrow.table({"prompt": ["a"], "when": when}), path)
    with pytest.raises(PromptFileError, match="after row 0"):
        read(path)


def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a")
    prompts = PromptFile(str(path))
    path.unlink()
    with pytest.raises(PromptFileError, match=r"p\.txt: cannot be read: No such file"):
        list(prompts.rows())


def test_problems_of_id_and_metadata_name_the_value(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "metadata": "red"}\n')
    assert read(path) == [RowProblem(1, "metadata: given 'red'; allowed: a JSON object")]
    for value, told in (("a\nb", r"'a\nb'"), (1.5, "1.5"), ("", "''"), (True, "True")):
        [problem] = PromptRules().expand(Row(3, {"prompt": "a", "id": value}))
        assert isinstance(problem, RowProblem)
        assert problem.text.startswith(f"id: given {told}; allowed: 1 to 200")
    [problem] = PromptRules().expand(Row(3, {"prompt": "a", "id": "x" * 201}))
    assert isinstance(problem, RowProblem)
    assert len(problem.text) < 120


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


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "x"}\n{"prompt": "a", "seed": 1, "prompt": "b"}\n',
        '{"prompt": "x"}\n{"prompt" : "a", "seed" : 1, "prompt" : "b"}\n',
        '{"prompt": "x"}\n{"prompt": "a", "metadata": {"prompt": 1, "prompt": 2}}\n',
        '[{"prompt": "x"},\n{"prompt": "a", "prompt": "b"}]',
    ],
)
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(PromptFileError, match="row 2: not valid JSON: the key 'prompt' occurs"):
        estimate_run(PromptFile(str(path)), PromptRules())
    path.write_text('{"prompt": "say \\"a\\": b", "metadata": {"a": {"prompt": 1}}}\n')
    assert estimate_run(PromptFile(str(path)), PromptRules()).new == 1
