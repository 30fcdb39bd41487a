"""Tables as programs write them: each is read correctly, or refused with one message."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stable_async.errors import ConfigurationError
from stable_async.jobs import (
    ColumnRules,
    Job,
    JobSettings,
    PromptFile,
    PromptFileError,
    PromptRules,
    RowProblem,
    Shard,
)
from stable_async.jobs.prompt_file import SuspiciousFileError
from stable_async.jobs.row import Row
from stable_async.jobs.rules import check
from tests import needs


def read(path: Path, **options: str) -> list[dict[str, object]]:
    """Return fields and metadata of all rows, which must be good."""
    rules = ColumnRules(
        service=options.pop("service", "core"), prompt_column=options.pop("prompt_column", None)
    )
    rows = list(PromptFile(str(path), rules=rules, **options).rows())  # type: ignore[arg-type]
    assert all(isinstance(row, Row) for row in rows), rows
    return [{**row.fields, **row.metadata} for row in rows if isinstance(row, Row)]


def refusal(path: Path, **options: str) -> str:
    """Return the one message that a file is refused with."""
    with pytest.raises(PromptFileError) as caught:
        read(path, **options)
    assert caught.value.count == 1
    return str(caught.value)


def check_row(row: Row) -> list[str]:
    """Return the problems of a row as a job finds them."""
    [expanded] = PromptRules(service=row.service or "core", price=1.0).expand(row)
    assert isinstance(expanded, Row)
    return [problem.text for problem in check(expanded, Path())]


# Samples of files that people have; `expected.md` beside them says what is right.
SAMPLES = Path(__file__).parent / "prompt_files"
ORIGINALS = Path(__file__).parents[3] / "shared" / "cases" / "prompt_files"
EXCEL_CP1252 = (SAMPLES / "excel_cp1252.csv").read_bytes()


@dataclass
class Table:
    """A table and what it says.

    Attributes:
        name: Of the file.
        data: Its bytes; `None` for a file of `SAMPLES`.
        rows: Fields and metadata of each row.
        options: That are needed.
    """

    name: str
    data: bytes | None
    rows: list[dict[str, object]]
    options: dict[str, str] = field(default_factory=dict)


READ = {
    "files with marks put together": Table(
        "p.jsonl",
        '{"prompt": "a fox"}\n\ufeff{"prompt": "a hare"}\n'.encode(),
        [{"prompt": "a fox"}, {"prompt": "a hare"}],
    ),
    "lines that begin with names of columns": Table(
        "p.txt",
        b"seed\nprompt, like a stage\n",
        [{"prompt": "seed"}, {"prompt": "prompt, like a stage"}],
    ),
    "excel, german": Table(
        "excel_semicolon.csv",
        None,
        [
            {
                "id": "1",
                "prompt": "ein Leuchtturm; Abendlicht",
                "negative_prompt": "Menschen",
                "seed": "17",
                "note": "0,5",
            },
            {"id": "2", "prompt": "eine Straßenbahn im Regen", "seed": "18"},
            {
                "id": "3",
                "prompt": "ein Satz\nmit Umbruch",
                "negative_prompt": "Text",
                "seed": "19",
                "note": "x",
            },
        ],
    ),
    "excel, unicode text": Table(
        "excel_utf16.csv",
        None,
        [{"prompt": "une gare la nuit", "seed": "4"}, {"prompt": "un café désert", "seed": "5"}],
    ),
    "excel, unicode text, big-endian": Table(
        "p.txt",
        b"\xfe\xff" + "prompt\tseed\r\nune gare\t4\r\n".encode("utf-16-be"),
        [{"prompt": "une gare", "seed": "4"}],
        {"format": "csv"},
    ),
    "excel, cp1252": Table(
        "excel_cp1252.csv",
        None,
        [
            {"prompt": "ein Café in Köln", "seed": "7"},
            {"prompt": "„Anführung“ aus Holz", "seed": "8"},
        ],
        {"encoding": "cp1252"},
    ),
    "trailing columns": Table(
        "trailing_columns.csv",
        None,
        [{"prompt": "a red bridge", "seed": "1"}, {"prompt": "a blue door", "seed": "2"}],
    ),
    "sep line": Table(
        "sep_line.csv",
        None,
        [{"prompt": "a tin robot", "seed": "3"}, {"prompt": "a paper crane", "seed": "4"}],
    ),
    "array": Table(
        "array.json",
        None,
        [{"prompt": "a green hill", "seed": 1}, {"prompt": "a wooden boat"}],
    ),
    "captions, named": Table(
        "captions.csv",
        None,
        [
            {"prompt": "a dog on a beach", "source": "web"},
            {"prompt": "a cat on a roof", "source": "web"},
        ],
        {"prompt_column": "CAPTION"},
    ),
    # Twenty and more as other programs write them.
    "excel, french": Table(
        "p.csv",
        "Prompt;Aspect Ratio\r\n« l’été », à l’ombre;16:9\r\n".encode("cp1252"),
        [{"prompt": "« l’été », à l’ombre", "aspect_ratio": "16:9"}],
        {"encoding": "cp1252"},
    ),
    "excel, japanese": Table(
        "p.csv",
        "prompt,seed\r\n灯台と海、夕暮れ,7\r\n".encode("cp932"),
        [{"prompt": "灯台と海、夕暮れ", "seed": "7"}],
        {"encoding": "cp932"},
    ),
    "excel, comma, with rows that were emptied": Table(
        "p.csv",
        b"prompt,seed\r\na fox,7\r\n,\r\n,\r\na hare,\r\n,\r\n",
        [{"prompt": "a fox", "seed": "7"}, {"prompt": "a hare"}],
    ),
    "excel for mac, lines end with CR": Table(
        "p.csv",
        b"prompt,seed\ra fox,7\ra hare,8\r",
        [{"prompt": "a fox", "seed": "7"}, {"prompt": "a hare", "seed": "8"}],
    ),
    "libreoffice, all texts quoted": Table(
        "p.csv",
        b'"Prompt","Seed","Note"\n"a ""fox"", red",7,"x"\n',
        [{"prompt": 'a "fox", red', "seed": "7", "Note": "x"}],
    ),
    "libreoffice, header with a line break": Table(
        "p.csv",
        b'prompt,"Negative\nPrompt"\na fox,people\n',
        [{"prompt": "a fox", "negative_prompt": "people"}],
    ),
    "google sheets": Table(
        "p.csv",
        "prompt,seed,\r\n🦊,7,\r\n".encode(),
        [{"prompt": "🦊", "seed": "7"}],
    ),
    "google sheets, tab separated": Table(
        "p.tsv",
        b'prompt\tseed\r\nthe "old" fox\t7\r\n',
        [{"prompt": 'the "old" fox', "seed": "7"}],
    ),
    "google sheets, tab separated, begins with a quote": Table(
        "p.tsv", b'prompt\tseed\r\n"""old"" fox"\t7\r\n', [{"prompt": '"old" fox', "seed": "7"}]
    ),
    "pandas, with its index": Table(
        "p.csv",
        b',prompt,seed,tags\n0,"a ""red"" fox",7.0,"[\'a\', \'b\']"\n1,"two\nlines",,\n',
        [
            {"column_1": "0", "prompt": 'a "red" fox', "seed": "7.0", "tags": "['a', 'b']"},
            {"column_1": "1", "prompt": "two\nlines"},
        ],
    ),
    "pandas, decimal commas": Table(
        "p.csv",
        "\ufeffprompt;cfg_scale;seed\nein Fuchs;4,5;7,0\n".encode(),
        [{"prompt": "ein Fuchs", "cfg_scale": "4.5", "seed": "7.0"}],
        {"service": "sd3"},
    ),
    "pandas, utf-16": Table(
        "p.csv", "prompt,seed\na fox,7\n".encode("utf-16"), [{"prompt": "a fox", "seed": "7"}]
    ),
    "pandas, records": Table(
        "p.json",
        b'[{"prompt":"a fox","seed":7.0,"tags":["a"]},{"prompt":"b","seed":null,"tags":null}]',
        [{"prompt": "a fox", "seed": 7.0, "tags": ["a"]}, {"prompt": "b"}],
    ),
    "pandas, lines in .json": Table(
        "p.json",
        b'{"prompt":"a fox","seed":7}\n{"prompt":"a hare","seed":8}\n',
        [{"prompt": "a fox", "seed": 7}, {"prompt": "a hare", "seed": 8}],
    ),
    "polars": Table(
        "p.csv",
        b'prompt,seed,score\n"a ""red"" fox, snow",7,0.5\n"two\nlines",,\n',
        [
            {"prompt": 'a "red" fox, snow', "seed": "7", "score": "0.5"},
            {"prompt": "two\nlines"},
        ],
    ),
    "duckdb, pipes and NULL": Table(
        "p.csv",
        b'prompt|seed|m\n"a ""red"" fox"|7|{k=1}\n"null"|NULL|NULL\n',
        [{"prompt": 'a "red" fox', "seed": "7", "m": "{k=1}"}, {"prompt": "null", "m": "NULL"}],
    ),
    "duckdb, array": Table(
        "p.json",
        b'[\n\t{"prompt":"a fox","seed":7,"m":{"k":1},"d":"2024-01-01"},\n\t{"prompt":"b"}\n]\n',
        [{"prompt": "a fox", "seed": 7, "m": {"k": 1}, "d": "2024-01-01"}, {"prompt": "b"}],
    ),
    "duckdb, cells of several lines between tabs": Table(
        "p.tsv",
        b'prompt\tseed\n"two\nlines"\t7\n',
        [{"prompt": "two\nlines", "seed": "7"}],
        {"format": "csv", "delimiter": "tab"},
    ),
    "R, write.csv": Table(
        "p.csv",
        b'"","prompt","seed"\n"1","a fox",NA\n"2","NA",8\n',
        [{"column_1": "1", "prompt": "a fox"}, {"column_1": "2", "prompt": "NA", "seed": "8"}],
    ),
    "R, write.csv2": Table(
        "p.csv",
        b'"prompt";"strength";"image"\n"a fox";0,35;"NA"\n',
        [{"prompt": "a fox", "strength": "0.35"}],
        {"service": "ultra"},
    ),
    "postgres, copy": Table("p.tsv", b"prompt\tseed\na fox\t\\N\n", [{"prompt": "a fox"}]),
    "headers with spaces that do not break": Table(
        "p.csv",
        "\ufeff\u00a0Prompt\u00a0,Negative\u00a0Prompt,\ufeffSeed\u200b\na fox,people,7\n".encode(),
        [{"prompt": "a fox", "negative_prompt": "people", "seed": "7"}],
    ),
    "two marks, as of files put together": Table(
        "p.csv", "\ufeff\ufeffprompt\na fox\n".encode(), [{"prompt": "a fox"}]
    ),
    "one column, semicolons in its texts": Table(
        "p.csv", b"prompt\na fox; a hare; a hound\n", [{"prompt": "a fox; a hare; a hound"}]
    ),
    "empty lines before the header": Table(
        "p.csv", b"\n,,\nprompt,seed,\na fox,7,\n", [{"prompt": "a fox", "seed": "7"}]
    ),
    "by hand, spaces after commas": Table(
        "p.csv",
        b'seed, "prompt"\n7, "a fox, red"\n8, a hare\n , \n',
        [{"seed": "7", "prompt": "a fox, red"}, {"seed": "8", "prompt": "a hare"}],
    ),
    "a thumbnail in a column": Table(
        "p.csv",
        b"prompt,thumbnail\na fox," + b"A" * 200_000 + b"\n",
        [{"prompt": "a fox", "thumbnail": "A" * 200_000}],
    ),
    "hugging face, to_json": Table(
        "p.jsonl",
        b'{"prompt":"a fox","seed":7}\n',
        [{"prompt": "a fox", "seed": 7}],
    ),
}


@pytest.mark.skipif(not ORIGINALS.exists(), reason="the originals are only beside the project")
def test_the_copies_of_the_samples_are_exact() -> None:
    originals = {path.name: path.read_bytes() for path in ORIGINALS.iterdir()}
    assert {path.name: path.read_bytes() for path in SAMPLES.iterdir()} == originals


def test_every_sample_is_read() -> None:
    """The rows of all samples are in `READ`, except that of one whose rows are refused."""
    read_ones = {table.name for table in READ.values() if table.data is None}
    there = {path.name for path in SAMPLES.iterdir()} - {"expected.md"}
    assert there == read_ones | {"blanks.jsonl"}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_many_programs_are_read(tmp_path: Path, name: str, packed: bool) -> None:
    table = READ[name]
    path = tmp_path / (table.name + (".gz" if packed else ""))
    data = (SAMPLES / table.name).read_bytes() if table.data is None else table.data
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read(path, **table.options) == table.rows


REFUSED = {
    "excel, unicode text": (
        "p.txt",
        "prompt\tseed\tnote\r\na fox\t5\tx\r\n".encode("utf-16"),
        ["row 1: prompt, seed, note: the header of a table?", "--format csv --delimiter tab"],
    ),
    "csv called txt": ("p.txt", b"Prompt;Seed\na fox;5\n", ["--format csv --delimiter semicolon"]),
    "one column called txt": ("p.txt", b"prompt\na fox\n", ["--format csv --delimiter comma"]),
    "cp1252": ("p.csv", EXCEL_CP1252, ["not UTF-8", "--encoding cp1252"]),
    "cp932": ("p.csv", "prompt\n灯台とうみ\n".encode("cp932"), ["--encoding cp932"]),
    "cp1251": ("p.csv", "prompt\nлиса в снегу\n".encode("cp1251"), ["--encoding", "cp1251"]),
    "utf-16 without a mark": (
        "p.csv",
        "prompt,seed\na fox,7\n".encode("utf-16-le"),
        ["--encoding utf-16-le"],
    ),
    "no prompts": (
        "captions.csv",
        (SAMPLES / "captions.csv").read_bytes(),
        ["caption, source", "--prompt-column caption"],
    ),
    "TEXT": ("p.csv", b"ID2;TEXT\n1;a fox\n", ["ID2, TEXT", "--prompt-column TEXT"]),
    "no header": ("p.csv", b"a fox; red\na hare; brown\n", ["the columns are: a fox, red"]),
    "array without prompts": (
        "p.json",
        b'[{"caption": "a fox"}, {"caption": "a hare"}]',
        ["--prompt-column caption"],
    ),
    "lines without prompts": (
        "p.jsonl",
        b'{"caption": "a fox"}\n{"caption": "a hare"}\n',
        ["no key 'prompt'", "--prompt-column caption"],
    ),
    "commas without quotes": (
        "p.csv",
        b"prompt\na fox, red, in snow\na hare, brown\n",
        ["3 cells under 1 column", "quote text"],
    ),
    "R, write.table": (
        "p.csv",
        b'"prompt" "seed"\n"1" "a fox" 7\n',
        ["row 1: not valid CSV"],
    ),
    "R, write.table with tabs": (
        "p.tsv",
        b"prompt\tseed\n1\ta fox\t7\n",
        ["3 cells under 2 columns", "row names"],
    ),
    "pandas, columns": (
        "p.json",
        b'{"prompt":{"0":"a fox","1":"a hare"},"seed":{"0":7,"1":8}}',
        ["an array of objects", "orient='records'"],
    ),
    "pandas, split": (
        "p.json",
        b'{"columns":["prompt"],"index":[0],"data":[["a fox"]]}',
        ["orient='records'"],
    ),
    "coco, too long to be read at once": (
        "p.json",
        b'{"info": {}, "annotations": [' + b'{"caption": "a fox"},' * 60_000,
        ["one JSON object", "jq .NAME"],
    ),
    "one object over lines": ("p.json", b'{\n  "prompt": "a fox"\n}\n', ["one JSON object"]),
    "array that ends early": ("p.json", b'[{"prompt": "a fox"},\n', ["row 2: not valid JSON"]),
    "array with a comma missing": (
        "p.json",
        b'[{"prompt": "a"} {"prompt": "b"}]',
        ["row 1: not valid JSON"],
    ),
    "xlsx named csv": ("p.csv", b"PK\x03\x04\x14\x00", ["save the sheet as CSV"]),
    "xlsx": ("p.xlsx", b"PK\x03\x04\x14\x00", ["save the sheet as CSV"]),
    "xls named csv": ("p.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", ["save the sheet as CSV"]),
    "parquet named csv": ("p.csv", b"PAR1\x15\x04", ["--format parquet"]),
    "zstd": ("p.csv", b"\x28\xb5\x2f\xfd\x24", ["zstd", "gzip"]),
    "mysql, quotes with backslashes": (
        "p.csv",
        b'"prompt"\n"a \\"red\\" fox"\n',
        ["row 2: not valid CSV: text after the end of a quoted cell", '""'],
    ),
    "a quote that is never closed": (
        "p.csv",
        b'prompt,seed\n"a fox,7\na hare,8\n',
        ["row 2: not valid CSV: a quote is opened and never closed"],
    ),
    "a quote that is never closed in a long file": (
        "p.csv",
        b'prompt,seed\n"a fox,7\n' + b"a hare,8\n" * 130_000,
        ["row 2: not valid CSV: a cell is longer than 1,048,576 characters"],
    ),
    "names in quotes of another kind": (
        "p.csv",
        b"'prompt'\n'a fox'\n",
        ["the columns are: 'prompt'", """--prompt-column ''"'"'prompt'"'"''"""],
    ),
    "cells of several lines between tabs": (
        "p.tsv",
        b'seed\tprompt\n7\t"two\nlines"\n',
        ["row 2", "--format csv --delimiter tab"],
    ),
    "pandas, tabs in a cell between tabs": (
        "p.tsv",
        b'prompt\tnote\n"a\tfox"\n',
        ["row 2: a quote is opened and not closed in its cell", "--format csv --delimiter tab"],
    ),
    "another delimiter": (
        "p.csv",
        b"prompt^seed\na fox^1\n",
        ["the columns are: prompt^seed. Are these several? --delimiter names"],
    ),
    "a remark in the name of the column": (
        "p.csv",
        b"No.,Prompt (English),Prompt (German)\n1,a fox,ein Fuchs\n",
        ["--prompt-column 'Prompt (English)'"],
    ),
    "parameters inside an object": (
        "p.json",
        b'[{"prompt":"a fox","params":{"seed":5,"Negative Prompt":"x","cfg":7}}]',
        ["row 1: params has seed, Negative Prompt inside", "--keep params"],
    ),
    "sqlite": ("p.csv", b"SQLite format 3\0" + b"\0" * 84, ["an SQLite database"]),
    "two columns of a name": (
        "p.csv",
        b"prompt,Prompt \na,b\n",
        ["two columns are named 'prompt'"],
    ),
    "two columns that would get a name": (
        "p.csv",
        b"prompt,text,source_text\na fox,b,c\n",
        [
            "the columns text and source_text would both be named 'source_text'",
            "--drop source_text",
        ],
    ),
    "diffusiondb": (
        "p.csv",
        b"image_name,prompt,seed,step,cfg,sampler,width,height,user_name\nx.png,a,7,5,7,8,512,512,u\n",
        ["columns look like", "width (core has aspect_ratio", "--keep width --keep height"],
    ),
}


def problems_of(path: Path, **rules: Any) -> list[RowProblem]:
    """Return the problems that are found when the rows of a file become requests."""
    source, expand = PromptFile(str(path)), PromptRules(**rules).expand
    found = [
        one
        for row in source.rows()
        for one in ([row] if isinstance(row, RowProblem) else expand(row))
    ]
    return [one for one in found if isinstance(one, RowProblem)]


@pytest.mark.parametrize("name", REFUSED)
def test_other_tables_are_refused_with_one_message(tmp_path: Path, name: str) -> None:
    file, data, told = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(data)
    message = refusal(path)
    assert message.count("\n") == 0
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("name", "data", "row", "told"),
    [
        ("p.csv", b"prompt\na fox\nprompt\na hare\n", 3, "the header again"),
        ("p.jsonl", b'{"prompt":"a\\u0000b"}\n', 1, "prompt: given text with a NUL"),
        ("p.txt", b"a fox\n" * 30 + b"a\0b\n", 31, "prompt: given text with a NUL"),
    ],
)
def test_what_is_no_prompt_is_told(
    tmp_path: Path, name: str, data: bytes, row: int, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    (problem,) = problems_of(path)
    assert problem.row == row
    assert told in problem.text


def test_the_wrong_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("\ufeffprompt\na fox\n".encode())
    assert "leave out --encoding" in refusal(path, encoding="cp1252")
    assert read(path, encoding="utf-8") == [{"prompt": "a fox"}]
    path.write_bytes(b"prompt\n\x81\n")
    assert "row 2: not CP1252 (byte 0x81)" in refusal(path, encoding="cp1252")
    for name in ("utf-99", "base64"):
        assert f"encoding is '{name}'; allowed: utf-8" in refusal(path, encoding=name)
    told = refusal(path, delimiter="::")
    assert "delimiter is '::'; allowed: one character, or tab" in told


def test_the_row_that_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    lines = [f"a fox {number}".encode() for number in range(5_000)]
    path.write_bytes(b"prompt\n" + b"\n".join([*lines, b"caf\xe9", *lines]))
    assert "row 5002: not UTF-8 (byte 0xe9)" in refusal(path)


def test_blank_prompts_are_refused(tmp_path: Path) -> None:
    what = "prompt: given blank text; allowed: text that is not blank"
    assert problems_of(SAMPLES / "blanks.jsonl") == [RowProblem(2, what), RowProblem(3, what)]
    path = tmp_path / "p.jsonl"
    for blank in (" ", "\u2800", "\u3164", "\ufeff\u2060", "\u200e \u3000", "\u00ad"):
        path.write_text(f'{{"prompt":"{blank}"}}\n')
        assert problems_of(path) == [RowProblem(1, what)], blank
        table = tmp_path / "p.csv"
        table.write_text(f'prompt,seed\n"{blank}",1\n')
        assert problems_of(table) == [RowProblem(2, what)], blank
    for text in ("🦊", "é", "雪", "?", "\u200bfox", "\u0301a"):
        path.write_text(f'{{"prompt":"{text}"}}\n')
        assert read(path) == [{"prompt": text}]
        assert not problems_of(path)


@pytest.mark.parametrize(
    "rules",
    [
        {"set": {"prompt": " "}},
        {"vary": {"prompt": ["a fox", "\u200b"]}},
        {"set": {"prompt": ""}, "service": "text-to-audio"},
        {"set": {"background_prompt": " "}, "service": "replace-background-and-relight"},
    ],
)
def test_blank_prompts_of_options_are_refused(tmp_path: Path, rules: dict[str, Any]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a kite"}\n')
    [problem] = problems_of(path, **rules)
    assert "prompt: given blank text" in problem.text


def test_what_may_be_blank_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,negative_prompt\na kite," "\n')
    assert not problems_of(path)
    assert not problems_of(path, set={"prompt": ""}, service="outpaint")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("# animals", "begins with '#': a comment?"),
        ("// animals", "begins with '//': a comment?"),
        ("```", "a separator, not text"),
        ("a fox --ar 16:9 --v 6", "has '--ar': a parameter of another program"),
        ("a fox —ar 16:9", "has '—ar': a parameter"),
        ("--no people", "has '--no'"),
        ("Negative prompt: people", "negative prompt in the form of AUTOMATIC1111"),
        ("Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512", "AUTOMATIC1111"),
        ("a fox <lora:ink:0.8>", "a model of another program"),
        ("/imagine prompt: a fox", "a Midjourney command"),
    ],
)
def test_lines_that_are_no_prompts_are_told(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(f"a kite\n{line}\n")
    first, second = PromptFile(str(path)).rows()
    assert first == Row(1, {"prompt": "a kite"})
    assert isinstance(second, RowProblem)
    assert second.row == 2
    assert told in second.text
    assert "as JSON Lines" in second.text
    table = tmp_path / "p.csv"
    table.write_text(f'prompt,seed\n"{line}",7\n')
    [row] = PromptFile(table).rows()
    array = tmp_path / "p.json"
    array.write_text(json.dumps([{"prompt": line}]))
    [element] = PromptFile(array).rows()
    if line.startswith(("#", "//")):  # a comment only as a line
        assert isinstance(row, Row)
        assert isinstance(element, Row)
        table.write_text(f"prompt,seed\n{line}\n")
        assert list(PromptFile(table).rows()) == [second]
    else:
        assert row == RowProblem(2, second.text)
        assert element == RowProblem(1, second.text)
    strict = tmp_path / "p.jsonl"
    strict.write_text(json.dumps({"prompt": line}))
    assert read(strict) == [{"prompt": line}]


def test_a_cell_of_several_lines_is_no_prompt_if_one_of_them_is_none(tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    cell = "a fox\nNegative prompt: people\nSteps: 20, Sampler: Euler a, Seed: 1"
    table.write_text(f'prompt\n"{cell}"\n"a fox\nthe negative prompt: none"\n')
    first, second = PromptFile(table).rows()
    assert isinstance(first, RowProblem)
    assert "has a line that begins with 'Negative prompt:'" in first.text
    assert isinstance(second, Row)


@pytest.mark.parametrize(
    "text",
    [
        "My prompts,,\n,,\nPrompt,seed,\na fox,1,\n",
        "My prompts\nprompt;seed\na fox;1\n",
        "Made by:,Ann\nid,prompt\n1,a fox\n",
    ],
)
def test_a_title_above_the_header_is_told(tmp_path: Path, text: str) -> None:
    """The name of the first column would be no advice: the rest would be bought as prompts."""
    (tmp_path / "p.csv").write_text(text)
    told = refusal(tmp_path / "p.csv")
    assert "the header? The first row has the names of the columns" in told
    assert "--prompt-column" not in told


def test_lines_of_text_that_only_look_a_little_like_that_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    lines = [
        "a well-lit room -- at night",
        "C# on a blackboard",
        "the negative prompt: a photo of a page",
        "(a red fox:1.2), snow",
        "10 steps: up and down",
        "dusk —mist over the river",
    ]
    path.write_text("\n".join(lines))
    assert [row["prompt"] for row in read(path)] == lines


def test_a_line_of_text_is_a_path_where_that_is_what_the_service_needs(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text('photos/a (1).jpg\n"C:\\photos\\b.jpg"\n# c.jpg\n')
    assert read(path, service="remove-background") == [
        {"image": "photos/a (1).jpg"},
        {"image": "C:\\photos\\b.jpg"},
        {"image": "# c.jpg"},
    ]
    assert "sketch needs image and prompt" in refusal(path, service="sketch")
    rules = ColumnRules(service="sketch", given=frozenset({"prompt"}))
    [row, *_] = PromptFile(str(path), rules=rules).rows()
    assert row == Row(1, {"image": "photos/a (1).jpg"})


def test_an_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with path.open("w") as file:
        for number in range(60_000):
            file.write(f'{"," if number else "["}{{"prompt":"{number} {"x" * 100}"}}')
        file.write("]")
    tracemalloc.start()
    count = sum(isinstance(row, Row) for row in PromptFile(str(path)).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 3_000_000


def test_columns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Prompt,NEG,note,width,internal\na fox,people,x,512,z\n")
    rules = ColumnRules(map={"neg": "negative_prompt"}, keep=["Width"], drop=["INTERNAL"])
    source = PromptFile(str(path), rules=rules)
    assert list(source.rows()) == [
        Row(
            2,
            {"prompt": "a fox", "negative_prompt": "people"},
            {"note": "x", "source_width": "512"},
        )
    ]
    assert source.columns.parameters == {"Prompt": "prompt", "NEG": "negative_prompt"}
    assert source.columns.kept == ["note", "width"]
    assert source.columns.dropped == ["internal"]


@pytest.mark.parametrize(
    ("header", "service", "meant"),
    [
        ("negative", "core", "negative_prompt"),
        ("ar", "core", "aspect_ratio"),
        ("Ratio", "core", "aspect_ratio"),
        ("width", "core", "aspect_ratio"),
        ("promt", "remove-background", None),
        ("seeds", "core", "seed"),
        ("style", "core", "style_preset"),
        ("cfg", "sd3", "cfg_scale"),
        ("cfg_scale", "core", None),
        ("guidance scale", "sd3", "cfg_scale"),
        ("image_path", "ultra", "image"),
    ],
)
def test_a_column_that_looks_like_a_parameter_stops_the_job(
    tmp_path: Path, header: str, service: str, meant: str | None
) -> None:
    path = tmp_path / "p.csv"
    others = "image" if service == "remove-background" else "prompt"
    path.write_text(f"{others},{header}\na fox,1\n")
    if header == "promt":
        assert read(path, service=service) == [{"image": "a fox", "promt": "1"}]
        return
    with pytest.raises(SuspiciousFileError) as caught:
        read(path, service=service)
    [suspicion] = caught.value.columns.suspicious
    assert (suspicion.column, suspicion.meant) == (header, meant)
    for how in ({"keep": [header]}, {"keep": ["*"]}, {"drop": [header.upper()]}):
        options: dict[str, Any] = how
        rows = list(PromptFile(str(path), rules=ColumnRules(service=service, **options)).rows())
        assert len(rows) == 1
        assert isinstance(rows[0], Row)
        assert rows[0].fields.keys() == {"prompt"}


def test_names_that_options_say_must_be_there_and_be_said_once(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,note\na,b\n")

    def told(**rules: Any) -> str:
        with pytest.raises(PromptFileError) as caught:
            list(PromptFile(str(path), rules=ColumnRules(**rules)).rows())
        return str(caught.value)

    assert "--keep: no column 'x'; the columns are: prompt, note" in told(keep=["x"])
    assert "--map: no column 'x'" in told(map={"x": "seed"})
    assert "there is no parameter 'sed'" in told(map={"note": "sed"})
    assert "column 'note' is named twice" in told(keep=["note"], drop=["Note"])


def test_texts_of_an_array_are_prompts_like_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('["a fox",\n {"prompt": "a kite", "seed": 7}, "a hare"]')
    assert read(path) == [
        {"prompt": "a fox"},
        {"prompt": "a kite", "seed": 7},
        {"prompt": "a hare"},
    ]
    path.write_text('["a.png"]')
    assert read(path, service="remove-background") == [{"image": "a.png"}]
    path.write_text('["a fox --ar 16:9", 7]')
    told = [row.text for row in PromptFile(path).rows() if isinstance(row, RowProblem)]
    assert "has '--ar'" in told[0]
    assert "not a JSON object or text" in told[1]
    path.write_text('["", " "]')
    assert len(problems_of(path)) == 1, "the model refuses an empty one"


def test_an_object_with_parameters_inside_may_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"prompt": "a fox", "params": {"seed": 5}, "metadata": {"seed": 6}}]')
    for keep in (["params"], ["*"]):
        [row] = PromptFile(path, rules=ColumnRules(keep=keep)).rows()
        assert row == Row(1, {"prompt": "a fox"}, {"params": {"seed": 5}, "source_seed": 6})
    [row] = PromptFile(path, rules=ColumnRules(given=frozenset({"seed"}))).rows()
    assert isinstance(row, Row), "an option has the seed"


def test_json_lines_refuse_unknown_keys_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a fox", "tag": "b", "list": [1]}\n')
    [problem] = PromptFile(str(path)).rows()
    assert isinstance(problem, RowProblem)
    assert "--keep list,tag (as metadata), --drop list,tag, --map list=FIELD" in problem.text
    path.write_text('{"prompt": "a fox", "score": 1}\n')
    [problem] = PromptFile(str(path)).rows()
    assert isinstance(problem, RowProblem)
    assert "score: no such parameter" in problem.text
    assert "--keep score" in problem.text
    for rules, row in (
        (ColumnRules(keep=["Score"]), Row(1, {"prompt": "a fox"}, {"score": 1})),
        (ColumnRules(keep=["*"]), Row(1, {"prompt": "a fox"}, {"score": 1})),
        (ColumnRules(drop=["score"]), Row(1, {"prompt": "a fox"})),
        (ColumnRules(map={"score": "seed"}), Row(1, {"prompt": "a fox", "seed": 1})),
    ):
        assert list(PromptFile(str(path), rules=rules).rows()) == [row]


def test_parquet_of_many_libraries(tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
    parquet = needs.module("pyarrow.parquet")
    media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "prompt": pa.array(["a fox", None], pa.large_string()),
            "seed": pa.array([7, None], pa.uint32()),
            "aspect_ratio": pa.array(["16:9", "1:1"]).dictionary_encode(),
            "thumb": pa.array([{"bytes": b"x", "path": "x.jpg"}, None], media),
            "raw": pa.array([b"\x00", b"\x01"]),
            "embedded": pa.array([[b"\x00"], []], pa.list_(pa.binary())),
            "tags": pa.array([["a", "b"], []]),
            "box": pa.array([{"x": 1, "y": 2}, None]),
            "binary_flag": pa.array([{"binary": True}, None]),
        }
    )
    path = tmp_path / "p.parquet"
    parquet.write_table(table, path)
    source = PromptFile(str(path))
    first, second = source.rows()
    assert first == Row(
        1,
        {"prompt": "a fox", "seed": 7, "aspect_ratio": "16:9"},
        {"tags": ["a", "b"], "box": {"x": 1, "y": 2}, "binary_flag": {"binary": True}},
    )
    assert second == Row(2, {"aspect_ratio": "1:1"}, {"tags": []})
    assert source.columns.left_out == ["embedded", "raw", "thumb"]
    identity = UUID(int=5)
    has_type = hasattr(pa, "uuid")  # since pyarrow 18
    uuid = pa.array([identity.bytes], pa.uuid()) if has_type else [str(identity)]
    parquet.write_table(pa.table({"prompt": ["a"], "id": uuid, "note": [{"Seed": 1}]}), path)
    assert "note has Seed inside" in refusal(path)
    rows = list(PromptFile(path, rules=ColumnRules(drop=["note"])).rows())
    assert rows == [Row(1, {"prompt": "a", "id": str(identity)})]
    pandas = needs.module("pandas")
    frame = pandas.DataFrame({"prompt": ["a"], "Negative Prompt": ["b"], "when": ["2024-01-01"]})
    frame["when"] = pandas.to_datetime(frame["when"])
    frame.to_parquet(path)
    [row] = read(path)
    assert row["negative_prompt"] == "b"
    assert str(row["when"]).startswith("2024-01-01")
    datasets = needs.module("datasets")
    datasets.Dataset.from_dict({"caption": ["a fox"], "label": [1]}).to_parquet(path)
    assert "--prompt-column caption" in refusal(path)
    assert read(path, prompt_column="caption") == [{"prompt": "a fox", "label": 1}]


def kind_of(column: str, service: str) -> tuple[str, str | None]:
    target = ColumnRules(service=service).target(
        column, frozenset({column.lower()}), any_service=False
    )
    return target.kind, target.meant


@pytest.mark.parametrize(
    ("meant", "slips"),
    [
        ("seed", "sead sede sed seeed esed eed seeds SEDE seed_ _seed Se-ed"),
        ("prompt", "promt prmopt rpompt prompt_s Promppt prompt_"),
        ("style_preset", "stile styel styl preet"),
        ("aspect_ratio", "asepct ratoi aspet_ratio aspect_ration apsect-ratio"),
        ("negative_prompt", "negatve negativ_prompt negative_promt"),
        ("output_format", "fromat formt outpt_format"),
    ],
)
def test_a_slip_in_the_name_of_a_column_stops_a_job_before_it_is_paid(
    meant: str, slips: str
) -> None:
    assert {slip: kind_of(slip, "core") for slip in slips.split()} == dict.fromkeys(
        slips.split(), ("suspicious", meant)
    )


@pytest.mark.parametrize("service", ["core", "sd3", "inpaint"])
def test_a_remark_beside_the_name_of_a_parameter_does_not_hide_it(service: str) -> None:
    names = {
        "seed": ["Seed#", "Seed No.", "Seed (int)", "*seed", "Image seed", "params.seed"],
        "negative_prompt": ["Negative Prompt:", "Negative Prompt (English)", "neg. prompt"],
    }
    for meant, columns in names.items():
        found = {column: kind_of(column, service) for column in columns}
        assert found == dict.fromkeys(columns, ("suspicious", meant))
    for column in ("#", "No.", "(x)", "Prompt (English)?", "prompt.en", "v1.5"):
        there = frozenset({"prompt", column.lower()})
        assert ColumnRules(service=service).target(column, there, any_service=False).kind == "kept"


@pytest.mark.parametrize("service", ["core", "sd3", "inpaint", "outpaint", "v1-text-to-image"])
def test_words_that_are_names_of_columns_elsewhere_stay_possible(service: str) -> None:
    text = (
        "side need speed send used name note task mark code node move mood made most more radio "
        "formal present second stop see with ask own let lift reset schedule stale feed seen light "
        "night bright town weight value words styles sizes photos Prompt_NSFW image_nsfw user_name "
        "timestamp Category Challenge Note similarity hash punsafe pwatermark aesthetic caption "
        "source tags label split title artist year url language rating author subject theme camera "
        "Titel Bild Notiz Sprache modele tema semilla sample_id time place scene state status ids "
        "rights masked"
    )
    kinds = {word: kind_of(word, service)[0] for word in text.split()}
    assert kinds == dict.fromkeys(kinds, "kept")


@pytest.mark.parametrize(
    ("column", "service"),
    [("prompt", "replace-background-and-relight"), ("mode", "text-to-audio")],
)
def test_a_parameter_of_another_service_is_no_slip(column: str, service: str) -> None:
    assert kind_of(column, service) == ("suspicious", None)


def test_texts_that_parquet_has_as_bytes_are_read(tmp_path: Path) -> None:
    """Hive, Impala and old versions of Spark write them so."""
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    path = tmp_path / "p.parquet"
    columns = {
        "prompt": pa.array(["a fox 🦊".encode(), b"caf\xe9"], pa.binary()),
        "Negative Prompt": pa.array([b"people", None], pa.large_binary()),
        "seed": pa.array([b"7", b"8"], pa.binary(1)),
        "thumb": pa.array([b"\xff\xd8", None], pa.binary()),
    }
    parquet.write_table(pa.table(columns), path)
    file = PromptFile(str(path))
    first, second = file.rows()
    assert isinstance(first, Row)
    assert first.fields == {"prompt": "a fox 🦊", "negative_prompt": "people", "seed": "7"}
    assert file.columns.left_out == ["thumb"]
    assert isinstance(second, Row)
    [problem] = check_row(second)
    assert problem.startswith("prompt: ")


def test_texts_for_other_programs_are_told_in_every_field(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,negative_prompt\na fox,Negative prompt: people\na kite,--no text\n")
    first, second = PromptFile(path).rows()
    assert isinstance(first, RowProblem)
    assert "negative_prompt begins with 'Negative prompt:'" in first.text
    assert isinstance(second, RowProblem)
    assert "negative_prompt has '--no'" in second.text


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_json_does_not_have_names_its_column(number: float) -> None:
    row = Row(3, {"prompt": "a fox"}, {"page": 1, "scores": [1.0, number]})
    [problem] = PromptRules().expand(row)
    assert isinstance(problem, RowProblem)
    assert problem.text.startswith(f"scores: given [1.0, {number}], not a finite number")
    assert "--drop" in problem.text


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ('[{"text": "\u200b"}]', "text_prompts: given only blank text"),
        ('[{"text": "\u3164 "}, {"text": ""}]', "text_prompts: given only blank text"),
        ('[{"text": "a fox", "weight": true}]', "weight"),
    ],
)
def test_weighted_prompts_that_say_nothing_or_have_no_number_are_refused(
    prompts: str, told: str
) -> None:
    fields: dict[str, object] = {"text_prompts": prompts, "engine_id": "an-engine"}
    [problem] = check_row(Row(1, fields, service="v1-text-to-image"))
    assert told in problem


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"prompt": "a fox"}\n{"prompt": "a kite"}\n', "JSON Lines? Use --format jsonl"),
        ('["a fox", "a kite"]\n', "JSON? Use --format json"),
        ('[\n  {"prompt": "a fox"}\n]\n', "JSON? Use --format json"),
        ("{\\rtf1\\ansi a fox\\par}\n", "a rich text document"),
        ("\n<!DOCTYPE html>\n<html>\n", "a web page"),
        ('<?xml version="1.0"?>\n<a/>\n', "a web page"),
        ("version https://git-lfs.github.com/spec/v1\nsize 12345\n", "git lfs pull"),
        ("['a fox', 'a kite']\n", "Python"),
        ('prompts = [\n    "a fox",\n]\n', "Python"),
        ("Prompt\tCategory\tNote\nbond\tAbstract\tx\n", "--format csv --delimiter tab"),
        ("id,caption,category\n1,a fox,x\n", "--format csv --delimiter comma"),
        ("  prompt  seed\n0  a fox     1\n", "a table that was printed"),
    ],
)
def test_a_txt_of_another_format_is_refused_as_a_whole(
    tmp_path: Path, text: str, told: str
) -> None:
    """Each of its lines would be bought."""
    path = tmp_path / "p.txt"
    path.write_text(text)
    assert told in refusal(path)


def test_a_txt_may_begin_with_any_sign(tmp_path: Path) -> None:
    lines = ["[fox], snow", "{red|blue} kite", "<a sign>", "(snow:1.2)", "versions of a fox"]
    lines += ["caption, text, id", "a prompt  seed", "text | prompt"]
    path = tmp_path / "p.txt"
    for line in lines:
        path.write_text(line + "\n")
        assert read(path) == [{"prompt": line}]


@pytest.mark.parametrize(
    "cell", ["#REF!", "#NAME?", "#BEZUG!", "#N/A", "#DIV/0!", "Err:502", "nan", "None", "NULL"]
)
def test_what_programs_write_for_no_text_is_not_bought(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"prompt,negative_prompt\n{cell},people\n")
    [row] = PromptFile(path).rows()
    assert isinstance(row, RowProblem)
    assert f"prompt is {cell!r}: what programs write" in row.text
    path.write_text(f"prompt,negative_prompt\na {cell},nan\na fox,None\n")
    assert read(path) == [{"prompt": f"a {cell}"}, {"prompt": "a fox"}]


@pytest.mark.parametrize(
    ("text", "lines", "footers"),
    [
        ("prompt | seed\n-------+-----\n a fox |    7\n(1 row)\n", [2], [4]),
        ("| prompt | seed |\n|:-----|---:|\n| a fox | 7 |\n", [2], []),
        ("prompt;seed\na fox;7\n***;\n", [3], []),
        ("prompt\n┌─────────┬───────┐\na fox\n╞═══╪═══╡\n", [2, 4], []),
    ],
)
def test_lines_and_footers_of_printed_tables_are_not_bought(
    tmp_path: Path, text: str, lines: list[int], footers: list[int]
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    rows = list(PromptFile(path).rows())
    [row] = (row for row in rows if isinstance(row, Row))
    assert str(row.fields["prompt"]).rstrip() == "a fox"
    problems = {row.row: row.text for row in rows if isinstance(row, RowProblem)}
    assert list(problems) == lines + footers
    assert all("a separator, not text" in problems[number] for number in lines)
    assert all("what programs write for a missing value" in problems[number] for number in footers)


@pytest.mark.parametrize("cell", ["4,000", "1,234", "-1,000"])
def test_a_whole_number_with_a_comma_before_three_digits_may_be_thousands(
    tmp_path: Path, cell: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"prompt;seed;cfg_scale\na fox;{cell};4,500\n")
    [row] = PromptFile(path, rules=ColumnRules(service="sd3")).rows()
    assert isinstance(row, Row)
    assert row.fields["cfg_scale"] == "4.500", "cannot be thousands"
    row.service = "sd3"
    [problem] = check_row(row)
    assert problem.startswith(f"seed: given {cell!r}; allowed: a whole number")


@pytest.mark.parametrize(
    ("seed", "scale"),
    [
        ("7", "4.5"),
        ("7.0", "4.50"),
        ("007", "04.5"),
        (7.0, 4.5),
        (7, "4.5"),
        (Decimal("7.00"), Decimal("4.50")),
    ],
)
def test_a_row_is_the_same_however_its_numbers_are_written(seed: object, scale: object) -> None:
    """So a table that another program has saved again is not bought again."""
    rules = PromptRules(service="sd3")
    fields: dict[str, object] = {"prompt": "7.0", "seed": seed, "cfg_scale": scale}
    [row] = rules.expand(Row(1, fields))
    [plain] = rules.expand(Row(1, {"prompt": "7.0", "seed": 7, "cfg_scale": 4.5}))
    [other] = rules.expand(Row(1, {"prompt": "7", "seed": 7, "cfg_scale": 4.5}))
    assert isinstance(row, Row)
    assert isinstance(plain, Row)
    assert isinstance(other, Row)
    assert row.content == plain.content
    assert row.content != other.content, "a prompt is a text"


@pytest.mark.parametrize("seed", [0, "0", 0.0, "0.0", None])
def test_a_seed_of_0_is_no_seed(seed: object) -> None:
    [row] = PromptRules().expand(Row(1, {"prompt": "a fox", "seed": seed}))
    [without] = PromptRules().expand(Row(1, {"prompt": "a fox"}))
    assert isinstance(row, Row)
    assert isinstance(without, Row)
    assert row.content == without.content


def test_an_empty_table_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"")
    assert refusal(path).endswith(": the file is empty")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vary": {"seed": "12"}}, "vary: seed is '12'; allowed: a list of values"),
        ({"vary": {"seed": 5}}, "vary: seed is 5; allowed: a list of values"),
        ({"vary": {"seed": []}}, "vary: seed is list; allowed: a list of values"),
        ({"vary": 5}, "vary is 5; allowed: a mapping"),
        ({"set": ["seed=1"]}, "set is list; allowed: a mapping"),
        ({"limit": 0}, "limit is 0; allowed: a whole number, 1 or more"),
        ({"sample": "5"}, "sample is '5'; allowed: a whole number, 1 or more"),
        ({"service": 5}, "service is 5; allowed: text"),
        ({"price": -1}, "price is -1; allowed: a number, 0 or more"),
        ({"allow_duplicates": "no"}, "allow_duplicates is 'no'; allowed: True or False"),
        ({"shard": 2}, "shard is 2; allowed: I/N"),
        ({"shard": "0/2"}, "shard is 0/2; allowed: I/N"),
        ({"servce": "core"}, "servce: no such argument, did you mean service?"),
    ],
)
def test_rules_of_a_program_are_checked(options: dict[str, Any], told: str) -> None:
    """A text of values would be taken for its characters, and each bought."""
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        PromptRules(**options)


def test_an_id_may_be_a_whole_number_as_pandas_writes_it() -> None:
    for given, found in ((7.0, "7"), (7, "7"), (7.5, "7.5"), (float("inf"), "inf")):
        [row] = PromptRules().expand(Row(1, {"id": given, "prompt": "a fox"}))
        if isinstance(given, int) or given == 7:
            assert isinstance(row, Row)
            assert row.id == found
        else:
            assert isinstance(row, RowProblem)
            assert f"given {found}" in row.text


def test_rules_of_a_program_take_what_is_clear() -> None:
    rules = PromptRules(vary={"seed": ["1", "2"], "style_preset": ("anime",)}, shard="2/4")  # type: ignore[arg-type]
    assert not list(rules.problems())
    assert rules.shard == Shard(2, 4)


def test_a_job_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt\na fox\n")
    settings, prompts, rules = JobSettings(folder=tmp_path), PromptFile(path), PromptRules()
    wrong: list[tuple[Any, Any, Any]] = [
        (str(tmp_path), prompts, rules), (settings, str(path), rules), (settings, prompts, None)
    ]  # fmt: skip
    for words in wrong:
        with pytest.raises(ConfigurationError, match=r"; allowed: a? ?(JobS|PromptF|PromptR)"):
            Job(*words)
    for option in ({"format": "xls"}, {"rules": 5}):
        with pytest.raises(ConfigurationError, match="; allowed: "):
            PromptFile(path, **option)
