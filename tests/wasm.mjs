// Compile every module and use the request models on Python in WebAssembly: see `make wasm`.
import { loadPyodide } from "pyodide";

const python = await loadPyodide();
for (const [name, folder] of [["/project", process.argv[2]], ["/site", process.argv[3]]]) {
  python.FS.mkdirTree(name);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, name);
}
console.log(python.runPython(`
import importlib, pathlib, sys, warnings
warnings.simplefilter("error")
sys.path[:0] = ["/project", "/site"]
modules = sorted(pathlib.Path("/project/stable_async").rglob("*.py"))
for path in modules:
    compile(path.read_text(), str(path), "exec")
from stable_async import GenerateCore, InvalidRequestError, UpscaleFast
models = [path.stem for path in modules if path.parent.name == "api" and path.stem != "__init__"]
for name in models:
    importlib.import_module(f"stable_async.api.{name}")
assert dict(GenerateCore(prompt="x", seed=7).texts()) == {"prompt": "x", "seed": "7"}
try:
    GenerateCore(prompt="", negative_promt="y")
except InvalidRequestError as error:
    assert "did you mean negative_prompt" in str(error)
else:
    raise AssertionError
assert UpscaleFast.model_json_schema()["properties"]["image"]["contentEncoding"] == "base64"
f"Python {sys.version.split()[0]} on {sys.platform}: {len(modules)} modules compile, {len(models)} of api/ work"
`));
