"""Tables as the libraries write them that people have: written here, or kept as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stable_async.jobs import PromptFile, PromptFileError
from stable_async.jobs.columns import ColumnRules
from stable_async.jobs.row import Row
from tests import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# By polars 2.1 and DuckDB 2.0, which tests do not need otherwise.
KEPT = Path(__file__).parent / "tables"

TEXTS = ['a "red" fox, snow', "two\nlines"]


@dataclass
class Written:
    """A table and what is right.

    Attributes:
        name: Of the file.
        write: Writes it; or its text.
        right: Fields and metadata of each row; or parts of the one message it is refused with.
        rules: What options say about columns.
    """

    name: str
    write: Callable[[Path], object] | str
    right: Sequence[Mapping[str, object]] | tuple[str, ...]
    rules: dict[str, Any] = field(default_factory=dict)


def frame(**columns: list[Any]) -> Any:
    return needs.module("pandas").DataFrame({"prompt": TEXTS, "seed": [7, None], **columns})


def arrow(**columns: Any) -> Any:
    return needs.module("pyarrow").table({"prompt": TEXTS, "seed": [7, None], **columns})


def dataset(**columns: list[Any]) -> Any:
    found = needs.module("datasets")
    found.disable_progress_bars()
    return found.Dataset.from_dict({"prompt": TEXTS, "seed": [7, None], **columns})


def writes_floats(library: str, until: tuple[int, ...]) -> bool:
    """Return whether a library writes whole numbers with a gap as floats: it did before `until`."""
    try:
        return tuple(map(int, version(library).split(".")[:2])) < until
    except PackageNotFoundError:
        return False  # the test says so


def kept(name: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes((KEPT / name).read_bytes())


def diffusion_db(path: Path) -> None:
    """Write a table with the columns of `metadata.parquet`."""
    table = needs.module("pyarrow").table(
        {
            "image_name": ["a.png", "b.png"],
            "prompt": TEXTS,
            "part_id": [1, 1],
            "seed": [2615452301, 7],
            "step": [50, 50],
            "cfg": [7.0, 7.0],
            "sampler": [8, 8],
            "width": [512, 512],
            "height": [512, 768],
            "user_name": ["u", "u"],
            "timestamp": ["2022-08-11", "2022-08-12"],
            "image_nsfw": [0.05, 0.9],
            "prompt_nsfw": [0.01, 0.5],
        }
    )
    needs.module("pyarrow.parquet").write_table(table, path)


def coco(path: Path, *, indent: int | None = None) -> None:
    """Write a file as `captions_train2017.json` is."""
    captions = [{"image_id": 9, "id": 1, "caption": "a fox"}]
    found = {"info": {"year": 2017}, "licenses": [], "images": [], "annotations": captions}
    path.write_text(json.dumps(found, indent=indent))


SEEDED: list[dict[str, object]] = [{"prompt": TEXTS[0], "seed": 7}, {"prompt": TEXTS[1]}]
FLOATS: list[dict[str, object]] = [{"prompt": TEXTS[0], "seed": 7.0}, {"prompt": TEXTS[1]}]
CELLS = [{"prompt": TEXTS[0], "seed": "7"}, {"prompt": TEXTS[1]}]
FLOAT_CELLS = [{"prompt": TEXTS[0], "seed": "7.0"}, {"prompt": TEXTS[1]}]
SCORED: list[dict[str, object]] = [
    {"prompt": TEXTS[0], "seed": 7, "score": 0.5, "tags": ["a", "b"]},
    {"prompt": TEXTS[1], "tags": []},
]

TABLES = {
    # spreadsheet programs.
    "excel, csv utf-8": Written(
        "p.csv",
        '\ufeffprompt,seed\r\n"a ""red"" fox, snow",7\r\n"two\nlines",\r\n',
        CELLS,
    ),
    "excel, text with tabs": Written(
        "p.txt",
        'prompt\tseed\r\n"a ""red"" fox, snow"\t7\r\n"two\nlines"\t\r\n',
        ("the header of a table?", "--format csv --delimiter tab"),
    ),
    "libreoffice, formulas that failed": Written(
        "p.csv", "prompt,seed\na fox,#N/A\n", [{"prompt": "a fox"}]
    ),
    "numbers": Written(
        "p.csv",
        '\ufeffprompt;seed;\r\n"a ""red"" fox, snow";7;\r\n"two\nlines";;\r\n;;\r\n;;\r\n',
        CELLS,
    ),
    "numbers, with the names of tables": Written(
        "p.csv", "Table 1\nprompt,seed\na fox,7\n", ("row 2: the header?", "remove the rows above")
    ),
    # pandas.
    "pandas, to_csv": Written("p.csv", lambda path: frame().to_csv(path, index=False), FLOAT_CELLS),
    "pandas, to_csv with tabs": Written(
        "p.csv", lambda path: frame().to_csv(path, index=False, sep="\t"), FLOAT_CELLS
    ),
    "pandas, to_csv for excel": Written(
        "p.csv",
        lambda path: frame().to_csv(path, index=False, sep=";", encoding="utf-8-sig", decimal=","),
        FLOAT_CELLS,
    ),
    "pandas, to_csv with gzip": Written(
        "p.csv.gz", lambda path: frame().to_csv(path, index=False), FLOAT_CELLS
    ),
    "pandas, to_json records": Written(
        "p.json", lambda path: frame().to_json(path, orient="records"), FLOATS
    ),
    "pandas, to_json records, indented": Written(
        "p.json", lambda path: frame().to_json(path, orient="records", indent=2), FLOATS
    ),
    "pandas, to_json lines": Written(
        "p.jsonl",
        lambda path: frame().to_json(path, orient="records", lines=True),
        FLOATS,
    ),
    "pandas, to_json columns": Written(
        "p.json", lambda path: frame().to_json(path), ("one JSON object", "orient='records'")
    ),
    "pandas, to_json index": Written(
        "p.json",
        lambda path: frame().to_json(path, orient="index"),
        ("one JSON object", "orient='records'"),
    ),
    "pandas, to_json split, indented": Written(
        "p.json",
        lambda path: frame().to_json(path, orient="split", indent=1),
        ("one JSON object", "orient='records'"),
    ),
    "pandas, to_parquet": Written("p.parquet", lambda path: frame().to_parquet(path), FLOATS),
    "pandas, to_parquet with an index": Written(
        "p.parquet",
        lambda path: frame().set_index("seed").to_parquet(path),
        FLOATS,
    ),
    # polars and DuckDB.
    "polars, write_parquet": Written("p.parquet", kept("polars.parquet"), SCORED),
    "polars, write_json": Written(
        "p.json",
        '[{"prompt":"a \\"red\\" fox, snow","seed":7,"score":0.5,"tags":["a","b"]},'
        '{"prompt":"two\\nlines","seed":null,"score":null,"tags":[]}]',
        SCORED,
    ),
    "polars, write_ndjson": Written(
        "p.ndjson",
        '{"prompt":"a \\"red\\" fox, snow","seed":7,"score":0.5}\n'
        '{"prompt":"two\\nlines","seed":null,"score":0.0}\n',
        [
            {"prompt": TEXTS[0], "seed": 7, "score": 0.5},
            {"prompt": TEXTS[1], "score": 0.0},
        ],
        {"keep": ["score"]},
    ),
    "polars, write_csv with tabs": Written(
        "p.tsv",
        'prompt\tseed\n"a ""red"" fox, snow"\t7\n"two\nlines"\t\n',
        ("row 3", "--format csv --delimiter tab"),
    ),
    "duckdb, copy to parquet": Written(
        "p.parquet",
        kept("duckdb.parquet"),
        [
            {"prompt": TEXTS[0], "seed": 7, "m": {"k": 1}, "tags": ["a"], "d": "2024-01-01"},
            {"prompt": TEXTS[1]},
        ],
    ),
    "duckdb, copy to csv": Written(
        "p.csv",
        "prompt,seed,m,d,tags\n"
        '"a ""red"" fox, snow",7,{\'k\': 1},2024-01-01,[a]\n"two\nlines",,,,\n',
        [
            {
                "prompt": TEXTS[0],
                "seed": "7",
                "m": "{'k': 1}",
                "d": "2024-01-01",
                "tags": "[a]",
            },
            {"prompt": TEXTS[1]},
        ],
    ),
    "duckdb, copy to lines of json, all columns": Written(
        "p.json",
        '{"prompt":"a \\"red\\" fox, snow","seed":7,"service":"core","metadata":{"k":1}}\n'
        '{"prompt":"two\\nlines","seed":null,"service":null,"metadata":null}\n',
        [{"prompt": TEXTS[0], "seed": 7, "service": "core", "k": 1}, {"prompt": TEXTS[1]}],
    ),
    # pyarrow.
    "pyarrow, write_csv": Written(
        "p.csv",
        lambda path: needs.module("pyarrow.csv").write_csv(arrow(), path),
        CELLS,
    ),
    "pyarrow, parquet with large types": Written(
        "p.parquet",
        lambda path: needs.module("pyarrow.parquet").write_table(
            arrow(tags=[["a"], []]).cast(
                needs.module("pyarrow").schema(
                    [
                        ("prompt", needs.module("pyarrow").large_string()),
                        ("seed", needs.module("pyarrow").uint64()),
                        (
                            "tags",
                            needs.module("pyarrow").large_list(needs.module("pyarrow").string()),
                        ),
                    ]
                )
            ),
            path,
            compression="zstd",
        ),
        [{"prompt": TEXTS[0], "seed": 7, "tags": ["a"]}, {"prompt": TEXTS[1], "tags": []}],
    ),
    "pyarrow, two columns of a name": Written(
        "p.parquet",
        lambda path: needs.module("pyarrow.parquet").write_table(
            needs.module("pyarrow").Table.from_arrays(
                [arrow()["prompt"]] * 3, ["prompt", "note", "note"]
            ),
            path,
        ),
        ("two columns are named 'note'; the columns are: prompt, note, note",),
    ),
    "pyarrow, feather": Written(
        "p.feather",
        lambda path: needs.module("pyarrow.feather").write_feather(arrow(), path),
        ("unknown format", ".parquet"),
    ),
    "pyarrow, feather named parquet": Written(
        "p.parquet",
        lambda path: needs.module("pyarrow.feather").write_feather(arrow(), path),
        ("not valid parquet",),
    ),
    # datasets.
    "datasets, to_csv": Written(
        "p.csv",
        lambda path: dataset().to_csv(path),
        FLOAT_CELLS if writes_floats("datasets", (5, 2)) else CELLS,
    ),
    "datasets, to_json": Written("p.jsonl", lambda path: dataset().to_json(path), SEEDED),
    "datasets, to_parquet": Written(
        "p.parquet",
        lambda path: dataset(tags=[["a"], []]).to_parquet(path),
        [{"prompt": TEXTS[0], "seed": 7, "tags": ["a"]}, {"prompt": TEXTS[1], "tags": []}],
    ),
    "datasets, captions": Written(
        "p.parquet",
        lambda path: dataset().rename_column("prompt", "text").to_parquet(path),
        ("the columns are: text, seed", "--prompt-column text"),
    ),
    "datasets, save_to_disk": Written(
        "saved", lambda path: dataset().save_to_disk(path), ("save_to_disk", "to_parquet")
    ),
    # data sets and tools.
    "diffusiondb": Written(
        "p.parquet",
        diffusion_db,
        ("columns look like", "sampler", "--keep width --keep height"),
    ),
    "diffusiondb, its prompts": Written(
        "p.parquet",
        diffusion_db,
        [
            {
                "prompt": text,
                "seed": seed,
                "image_name": name,
                "part_id": 1,
                "source_width": 512,
                "source_height": height,
                "user_name": "u",
                "timestamp": day,
                "image_nsfw": nsfw,
                "prompt_nsfw": prompt_nsfw,
            }
            for text, seed, name, height, day, nsfw, prompt_nsfw in (
                (TEXTS[0], 2615452301, "a.png", 512, "2022-08-11", 0.05, 0.01),
                (TEXTS[1], 7, "b.png", 768, "2022-08-12", 0.9, 0.5),
            )
        ],
        {"keep": ["width", "height"], "drop": ["step", "cfg", "sampler"]},
    ),
    "coco, captions": Written("p.json", coco, ("one JSON object", "jq .NAME")),
    "coco, captions, indented": Written(
        "p.json", lambda path: coco(path, indent=2), ("one JSON object", "jq .NAME")
    ),
    "coco, its annotations": Written(
        "p.json",
        '[{"image_id": 9, "id": 1, "caption": "a fox"}]',
        [{"image_id": 9, "id": 1, "prompt": "a fox"}],
        {"prompt_column": "caption"},
    ),
    "label studio, json": Written(
        "p.json",
        '[{"id":1,"data":{"text":"a fox"},"annotations":[],"project":1}]',
        ("the keys are: id, data, annotations, project",),
    ),
    "label studio, json-min": Written(
        "p.json",
        '[{"text":"a fox","id":1,"label":"Good","annotator":1,"lead_time":2.5}]',
        [{"prompt": "a fox", "id": 1, "label": "Good", "annotator": 1, "lead_time": 2.5}],
        {"prompt_column": "text"},
    ),
    "label studio, csv": Written(
        "p.csv",
        'annotation_id,annotator,id,label,text\n1,1,1,"{""choices"":[""a"",""b""]}",a fox\n',
        [
            {
                "annotation_id": "1",
                "annotator": "1",
                "id": "1",
                "label": '{"choices":["a","b"]}',
                "prompt": "a fox",
            }
        ],
        {"prompt_column": "text"},
    ),
    "metadata.jsonl of an image folder": Written(
        "metadata.jsonl",
        '{"file_name": "a.png", "text": "a fox"}\n',
        ("no key 'prompt'", "--prompt-column text"),
    ),
    "metadata.jsonl of an image folder, named": Written(
        "metadata.jsonl",
        '{"file_name": "a.png", "text": "a fox"}\n',
        [{"source_file_name": "a.png", "prompt": "a fox"}],
        {"prompt_column": "text", "keep": ["*"]},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_libraries_are_read_or_refused_with_one_message(
    tmp_path: Path, name: str
) -> None:
    table = TABLES[name]
    path = tmp_path / table.name
    if isinstance(table.write, str):
        path.write_bytes(table.write.encode())
    else:
        table.write(path)
    service = "remove-background" if path.is_dir() else "core"
    rules = ColumnRules(service=service, **table.rules)
    if not isinstance(table.right, tuple):
        found = list(PromptFile(path, rules=rules).rows())
        assert all(isinstance(row, Row) for row in found), found
        rows = [{**row.fields, **row.metadata} for row in found if isinstance(row, Row)]
        assert json.loads(json.dumps(rows, default=str)) == table.right
        return
    with pytest.raises(PromptFileError) as caught:
        list(PromptFile(path, rules=rules).rows())
    assert caught.value.count == 1
    for part in table.right:
        assert part in str(caught.value)
